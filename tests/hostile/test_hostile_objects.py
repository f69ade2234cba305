"""Residuals, patches and whole tensors that say anything: decoded, or refused by an error of ours, in bounded memory."""

from __future__ import annotations

from dataclasses import replace

import former_remainder
import pytest
from forging import (
    change,
    damage,
    evaluate,
    memory_limit,
    put_segmented,
    read_segmented,
    rows_of,
    substitute,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.arrays import as_array
from erestore.errors import ErestoreError
from erestore.objects.tensors import value_digest
from erestore.records import Manifest
from erestore.store import Store
from erestore.variant.variant import Variant

KINDS = ["residual", "patch", "former patch", "tensors", "base"]


def oid_of(store: Store, kind: str) -> tuple[str, str]:
    """Return the manifest of a variant and one of its objects."""
    manifest = store.commit_record(store.resolve("exact")).manifest
    record = store.objects.get_record("manifest", manifest)
    base = store.objects.get_record("base", record["base"])
    return manifest, {
        "residual": record["terms"][0][0],
        "patch": record["patch"],
        "former patch": record["patch"],
        "base": record["base"],
        "tensors": base["tensors"]["dense.weight"][3][0],
    }[kind]


def test_a_rewritten_variant_decodes_like_the_first(store: Store) -> None:
    """The forgery itself works: with nothing changed but how segments are stored, all tensors decode."""
    for kind in ("residual", "patch", "tensors"):
        manifest, oid = oid_of(store, kind)
        index, contents, align = read_segmented(store.objects, kind, oid)
        new = put_segmented(store.objects, kind, index, *rows_of([*contents, b""]), align)
        found = substitute(store, manifest, {oid: new})
        assert found != manifest
        if kind == "tensors":  # the former version, which exact tensors are predicted from, is on the other base
            assert evaluate(store, found) >= 1
        elif kind == "patch":
            assert evaluate(store, found) == evaluate(store, manifest) == 6


def with_former_patch(store: Store, manifest: str) -> tuple[str, str]:
    """Return a variant like another with its exact remainder as erestore first wrote it, and that remainder."""
    held = Manifest.from_record(store.objects.get_record("manifest", manifest))
    variant, tensors, parts = Variant(store.objects, held), {}, []
    places = {place.key: place for place in variant.layout.tensors.values()}
    for key, tensor in sorted(variant.patch.tensors.items()):
        place = places[key]
        predicted = variant.predicted(tensor.predictor, key, place.dtype, place.shape)
        value = variant.stored(key, place.dtype, place.shape)
        own = list(former_remainder.encode(value, predicted))
        tensors[key] = {
            "codec": "difference",
            "digest": tensor.digest,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "predictor": list(tensor.predictor),
            "parts": [[0, len(part)] for part in own],
        }
        parts += own
    index = {"features": ["difference", "raw", "zstd"], "tensors": tensors}
    patch = put_segmented(store.objects, "patch", index, *rows_of([b"".join(parts)]))
    return store.objects.put_record("manifest", replace(held, patch=patch).to_record()).oid, patch


def test_a_former_patch_decodes_to_the_same(store: Store) -> None:
    manifest, _ = oid_of(store, "patch")
    variant, former = (Variant.open(store.objects, oid) for oid in (manifest, with_former_patch(store, manifest)[0]))
    assert len(former.patch.tensors) == len(variant.patch.tensors) > 2
    assert {tensor.codec for tensor in former.patch.tensors.values()} == {"difference"}
    for name in variant.layout.tensors:
        assert value_digest(as_array(former.tensor(name))) == value_digest(as_array(variant.tensor(name)))


def decode_changed(store: Store, kind: str, what: str, data: st.DataObject) -> None:
    manifest, oid = oid_of(store, kind)
    if kind == "former patch":
        (manifest, oid), kind = with_former_patch(store, manifest), "patch"
    try:
        if kind == "base":
            new = store.objects.put_record("base", change(data.draw, store.objects.get_record("base", oid))).oid
        else:
            index, contents, align = read_segmented(store.objects, kind, oid)
            if what == "content" and contents:
                number = data.draw(st.integers(0, len(contents) - 1))
                contents[number] = damage(data.draw, contents[number])
            rows, stored = rows_of(contents)
            if what == "index":
                index = change(data.draw, index)
            elif what == "segments":
                rows = change(data.draw, rows)
            new = put_segmented(store.objects, kind, index, rows, stored, align)
        found = substitute(store, manifest, {oid: new})
    except ErestoreError:
        return
    with memory_limit(1024):
        evaluate(store, found)


CASES = [
    (kind, what) for kind in KINDS for what in ("index", "content", "segments") if kind != "base" or what == "index"
]


@pytest.mark.parametrize(("kind", "what"), CASES)
@settings(settings.get_profile("hostile"))
@given(data=st.data())
def test_a_variant_with_a_changed_object(store: Store, kind: str, what: str, data: st.DataObject) -> None:
    decode_changed(store, kind, what, data)


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "what"), CASES)
@settings(settings.get_profile("hostile soak"))
@given(data=st.data())
def test_a_variant_with_a_changed_object_often(store: Store, kind: str, what: str, data: st.DataObject) -> None:
    decode_changed(store, kind, what, data)
