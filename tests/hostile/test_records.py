"""Records that say anything: read whole and true to their bytes, or refused by an error of ours."""

from __future__ import annotations

from typing import Any

import pytest
from forging import change, evaluate, memory_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.errors import ErestoreError
from erestore.objects.references import RECORDS
from erestore.store import Store


def record_of(store: Store, kind: str, revision: str) -> dict[str, Any]:
    commit = store.resolve(revision)
    manifest = store.commit_record(commit).manifest
    oids = {"commit": commit, "manifest": manifest}
    held = store.objects.get_record("manifest", manifest)
    oids |= {"base": held["base"], "layout": held["layout"]}
    return store.objects.get_record(kind, oids[kind])


def read_changed(store: Store, kind: str, data: st.DataObject) -> None:
    record = change(data.draw, record_of(store, kind, data.draw(st.sampled_from(["lossy", "exact"]))))
    try:
        read = RECORDS[kind].from_record(record)
        references = list(read.references())
    except ErestoreError:
        return
    assert all(isinstance(each, tuple) and len(each) == 2 for each in references)
    again = RECORDS[kind].from_record(read.to_record())
    assert again == read


@pytest.mark.parametrize("kind", RECORDS)
@settings(settings.get_profile("hostile"))
@given(data=st.data())
def test_a_changed_record_is_read_or_refused(store: Store, kind: str, data: st.DataObject) -> None:
    read_changed(store, kind, data)


@pytest.mark.soak
@pytest.mark.parametrize("kind", RECORDS)
@settings(settings.get_profile("hostile soak"))
@given(data=st.data())
def test_a_changed_record_is_read_or_refused_often(store: Store, kind: str, data: st.DataObject) -> None:
    read_changed(store, kind, data)


@pytest.mark.parametrize("kind", RECORDS)
@settings(settings.get_profile("hostile"), max_examples=30)
@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_a_record_whose_fields_are_anything(store: Store, kind: str, value: Any) -> None:
    record = record_of(store, kind, "exact")
    for field in record:
        try:
            list(RECORDS[kind].from_record({**record, field: value}).references())
        except ErestoreError:
            continue


def decode_changed(store: Store, kind: str, data: st.DataObject) -> None:
    revision = data.draw(st.sampled_from(["lossy", "exact"]))
    manifest = {**record_of(store, "manifest", revision), "digests": {}}
    changed = change(data.draw, record_of(store, kind, revision) if kind != "manifest" else manifest)
    try:
        oid = store.objects.put_record(kind, changed).oid
        if kind != "manifest":
            oid = store.objects.put_record("manifest", {**manifest, kind: oid}).oid
    except ErestoreError:
        return
    with memory_limit(1024):
        evaluate(store, oid)


@pytest.mark.parametrize("kind", ["manifest", "layout"])
@settings(settings.get_profile("hostile"))
@given(data=st.data())
def test_a_variant_with_a_changed_record(store: Store, kind: str, data: st.DataObject) -> None:
    decode_changed(store, kind, data)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["manifest", "layout"])
@settings(settings.get_profile("hostile soak"))
@given(data=st.data())
def test_a_variant_with_a_changed_record_often(store: Store, kind: str, data: st.DataObject) -> None:
    decode_changed(store, kind, data)
