"""fsck: finds every kind of damage, names who needs what is damaged, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from erestore.errors import RemoteError
from erestore.ops.commit import commit
from erestore.ops.fsck import FsckResult, fsck
from erestore.records import Layout, Manifest
from erestore.storage.abc import Storage
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.frames import encode_record, record_oid
from erestore.storage.memory import MemoryStorage
from erestore.store import MARKER, Store

MODES = [{}, {"read_data": True}, {"deep": True}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def filled(models: Path) -> Storage:
    return tiny.filled_store(MemoryStorage(), models).storage


@pytest.fixture
def store(filled: Storage) -> Store:
    return tiny.copy_store(filled, MemoryStorage())


def key_of(oid: str | None) -> str:
    assert oid is not None
    return f"objects/{oid[:2]}/{oid[2:]}"


def damage(store: Store, key: str, change: Callable[[bytearray], object]) -> None:
    content = bytearray(store.storage.read(key))
    change(content)
    store.storage.delete(key)
    store.storage.create(key, bytes(content))


def flip(store: Store, key: str, position: int = -1) -> None:
    def change(content: bytearray) -> None:
        content[position] ^= 0x10

    damage(store, key, change)


def parts(store: Store, revision: str) -> dict[str, str]:
    """One object of each kind that a variant needs and, but for base and tensors, nothing else does."""
    commit_oid = store.resolve(revision)
    manifest_oid = store.commit_record(commit_oid).manifest
    manifest = store.manifest_of(revision)
    layout = Layout.from_record(store.objects.get_record("layout", manifest.layout))
    found = {
        "commit": commit_oid,
        "manifest": manifest_oid,
        "residual": next(iter(store.commit_record(commit_oid).own)),
        "tensors": manifest.dense["head.weight"][0].tensor.data.oid,
        "layout": manifest.layout,
        "blob": layout.side_files["notes.txt"],
    }
    return found | ({"patch": manifest.patch} if manifest.patch else {})


KINDS = ["commit", "manifest", "residual", "tensors", "patch", "layout", "blob"]


@pytest.mark.parametrize("mode", MODES)
def test_a_whole_store_is_clean(store: Store, mode: dict[str, bool]) -> None:
    before = {entry.key: store.storage.read(entry.key) for entry in store.storage.list()}
    blob = store.objects.put_blob(b"unreachable")
    result = fsck(store, **mode)
    assert result.clean
    assert result.unreachable == (blob.oid,)
    assert result.checked == len(list(store.objects.list())) - (0 if mode else 1)
    store.objects.delete(blob.oid)
    assert {entry.key: store.storage.read(entry.key) for entry in store.storage.list()} == before


def test_an_empty_store_is_clean() -> None:
    assert fsck(tiny.make_store(MemoryStorage()), deep=True) == FsckResult(0, (), (), (), ())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_object_is_named_with_who_needs_it(store: Store, kind: str, mode: dict[str, bool]) -> None:
    oid = parts(store, "exact")[kind]
    store.objects.delete(oid)
    result = fsck(store, **mode)
    assert not result.clean
    assert result.corrupt == ()
    assert [(each.oid, each.kind) for each in result.missing] == [(oid, kind)]
    assert result.missing[0].needed_by == ("exact",)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found(store: Store, kind: str) -> None:
    oid = parts(store, "exact")[kind]
    flip(store, key_of(oid))
    result = fsck(store, read_data=True)
    assert [(each.oid, each.kind) for each in result.corrupt] == [(oid, kind)]
    assert result.missing == ()
    assert result.corrupt[0].needed_by == ("exact",)
    assert fsck(store, deep=True).corrupt == result.corrupt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["shorter", "longer", "empty"])
def test_a_wrong_size_is_found_without_reading_data(store: Store, kind: str, change: str) -> None:
    oid = parts(store, "exact")[kind]
    changes = {"shorter": bytearray.pop, "longer": lambda content: content.append(0), "empty": bytearray.clear}
    damage(store, key_of(oid), changes[change])
    result = fsck(store)
    assert [(each.oid, each.kind) for each in result.corrupt] == [(oid, kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_in_the_place_of_another_is_found(store: Store, kind: str) -> None:
    mine, theirs = parts(store, "exact")[kind], parts(store, "lossy~1").get(kind) or parts(store, "exact~1")[kind]
    assert mine != theirs
    content = store.storage.read(key_of(theirs))
    store.objects.delete(mine)
    store.storage.create(key_of(mine), content)
    result = fsck(store)
    assert (mine, kind) in [(each.oid, each.kind) for each in result.corrupt]


def test_an_object_of_the_wrong_kind_is_found(store: Store) -> None:
    record = store.manifest_of("lossy").to_record()
    blob = store.objects.put_blob(b"no layout")
    manifest = store.objects.put_record("manifest", {**record, "layout": blob.oid})
    point(store, "wrong", {**store.commit_record(store.resolve("lossy")).to_record(), "manifest": manifest.oid})
    result = fsck(store)
    assert [(each.oid, each.kind) for each in result.corrupt] == [(blob.oid, "layout")]
    assert "another kind" in result.corrupt[0].reason
    assert result.corrupt[0].needed_by == ("wrong",)


def test_damage_of_a_base_concerns_every_variant(store: Store) -> None:
    base = store.manifest_of("base").base
    flip(store, key_of(base), 20)
    (found,) = fsck(store).corrupt
    assert (found.oid, found.kind) == (base, "base")
    assert found.needed_by == ("base", "exact", "exact@{1}", "lossy", "lossy@{1}")


def test_damage_in_the_history_is_told_apart(store: Store, models: Path) -> None:
    commit(store, models / "lossy", parent="lossy~1", name="child")
    operation = store.begin()
    for name in ("lossy", "child"):  # the old version is in no reflog any more
        oid = store.resolve(name)
        for entry in list(store.storage.list(f"refs/{name}/")):
            store.storage.delete(entry.key)
        store.refs.update(
            name, oid, expected=0, kind="branch", operation=operation.id, writer=operation.writer, message=""
        )
    old = store.resolve("lossy~1")
    flip(store, key_of(old))
    (found,) = fsck(store).corrupt
    assert (found.oid, found.needed_by) == (old, ("child", "lossy"))


def test_it_goes_on_after_the_first_damage(store: Store) -> None:
    gone = parts(store, "exact")
    for kind in ("residual", "tensors", "blob", "patch"):
        store.objects.delete(gone[kind])
    flip(store, key_of(parts(store, "lossy")["residual"]))
    store.storage.create("refs/odd/0000000000000001", b"{}")
    store.storage.create("config/0000000000000001", b"\xff")
    store.storage.create("gc/condemned/00", b"[]")
    result = fsck(store, deep=True)
    assert {each.kind for each in result.missing} == {"residual", "tensors", "blob", "patch"}
    assert len(result.missing) == 4
    assert [each.oid for each in result.corrupt] == [parts(store, "lossy")["residual"]]
    assert {each.key for each in result.entries} == {
        "refs/odd/0000000000000001",
        "config/0000000000000001",
        "gc/condemned/00",
    }


def test_unreachable_objects_are_read_too(store: Store) -> None:
    blobs = [store.objects.put_blob(b"unreachable %d" % number) for number in range(3)]
    flip(store, key_of(blobs[0].oid))
    damage(store, key_of(blobs[1].oid), bytearray.clear)
    damage(store, key_of(blobs[2].oid), lambda content: content.__setitem__(5, 200))
    assert fsck(store).clean
    result = fsck(store, read_data=True)
    assert {each.oid for each in result.corrupt} == {blob.oid for blob in blobs}
    assert all(each.needed_by == () for each in result.corrupt)


def test_a_ref_that_does_not_follow_its_history_is_found(store: Store) -> None:
    content = parse_canonical(store.storage.read("refs/exact/0000000000000002"))
    content["previous"] = store.resolve("base")
    store.storage.delete("refs/exact/0000000000000002")
    store.storage.create("refs/exact/0000000000000002", dump_canonical(content))
    store.storage.create("refs/lossy/0000000000000004", store.storage.read("refs/lossy/0000000000000002"))
    found = fsck(store).entries
    assert [each.key for each in found] == ["refs/exact/0000000000000002", "refs/lossy/0000000000000004"]


def test_a_commit_that_a_ref_names_is_missing(store: Store) -> None:
    content = parse_canonical(store.storage.read("refs/exact/0000000000000001"))
    content["oid"] = "0" * 64
    store.storage.create("refs/gone/0000000000000001", dump_canonical(content))
    (found,) = fsck(store).missing
    assert (found.oid, found.kind, found.needed_by) == ("0" * 64, "commit", ("gone",))


def test_a_damaged_marker_is_found(store: Store) -> None:
    for content in (b"[]", b"x", b""):
        store.storage.delete(MARKER)
        store.storage.create(MARKER, content)
        assert [each.key for each in fsck(store).entries] == [MARKER]
    store.storage.delete(MARKER)
    assert [each.key for each in fsck(store).entries] == [MARKER]


def point(store: Store, name: str, record: dict[str, object]) -> None:
    operation = store.begin()
    oid = store.objects.put_record("commit", record).oid
    store.refs.update(name, oid, expected=0, kind="branch", operation=operation.id, writer=operation.writer, message="")


def rewritten(store: Store, name: str, change: Callable[[dict[str, object]], object]) -> str:
    """Point a new ref to a variant whose manifest was changed; return the manifest's oid."""
    record = store.manifest_of(name).to_record()
    change(record)
    manifest = store.objects.put_record("manifest", record)
    point(store, "changed", {**store.commit_record(store.resolve(name)).to_record(), "manifest": manifest.oid})
    return manifest.oid


def test_only_decoding_finds_what_is_consistent_and_wrong(store: Store) -> None:
    """Digests of tensors are compared, and remainders need the prediction they were made for."""
    patch = store.manifest_of("exact").patch

    def change(record: dict[str, object]) -> None:
        record["digests"] = dict.fromkeys(Manifest.from_record(record).digests, "0" * 32)

    manifest = rewritten(store, "exact", change)
    assert patch
    assert fsck(store, read_data=True).clean
    found = fsck(store, deep=True).corrupt
    assert {(each.oid, each.kind, each.needed_by) for each in found} == {(manifest, "manifest", ("changed",))}
    assert any("'dense.weight'" in each.reason for each in found)


def test_decoding_finds_a_base_whose_tensors_are_exchanged(store: Store) -> None:
    record = store.objects.get_record("base", store.manifest_of("base").base)
    tensors = record["tensors"]
    tensors["dense.bias"][3], tensors["scale"][3] = tensors["scale"][3], tensors["dense.bias"][3]
    oid = store.objects.put_record("base", record).oid
    rewritten(store, "base", lambda manifest: manifest.__setitem__("base", oid))
    assert fsck(store, read_data=True).clean
    found = fsck(store, deep=True).corrupt
    assert {each.oid for each in found} >= {oid}
    assert {each.needed_by for each in found} == {("changed",)}


@pytest.mark.parametrize("change", ["malformed", "references"])
def test_records_that_are_well_framed_and_malformed(store: Store, change: str) -> None:
    record = store.manifest_of("lossy").to_record()
    record["layout"] = ["x"] if change == "references" else record["layout"]
    record["terms"] = [[1]] if change == "malformed" else record["terms"]
    content = dump_canonical(record)
    oid = record_oid("manifest", content)
    store.storage.create(key_of(oid), encode_record("manifest", content))
    point(store, "odd", {**store.commit_record(store.resolve("lossy")).to_record(), "manifest": oid})
    assert oid in {each.oid for each in fsck(store, deep=True).corrupt}


def test_a_network_failure_is_no_damage(filled: Storage) -> None:
    class Unplugged(MemoryStorage):
        def read_range(self, key: str, start: int, stop: int) -> bytes:
            raise RemoteError("The network is down.")

    store = tiny.copy_store(filled, Unplugged())
    with pytest.raises(RemoteError):
        fsck(store)
