"""gc --drop-exact: a branch gives up its exact remainder, unless something needs it; nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from lineages import reopened

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import ConflictError, RefConflictError, UnknownRevisionError, UsageError
from erestore.objects.patch import Patch
from erestore.storage.abc import Storage
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def filled(models: Path) -> Storage:
    store = tiny.filled_store(MemoryStorage(), models)
    reopened(store.storage).commit(
        models / "exact",
        name="kept",
        base="base",
        message="first\n\nat length",
        quality=tiny.EXACT,
        metrics={"f1": "0.5"},
    )
    return store.storage


@pytest.fixture
def store(filled: Storage) -> Store:
    return reopened(tiny.copy_store(filled, MemoryStorage()).storage)


def all_of(store: Store) -> dict[str, bytes]:
    return {key: store.storage.read(key) for key in tiny.keys_of(store.storage)}


def test_the_lossy_part_stays_as_it_was(store: Store) -> None:
    before = store.commit_record(store.resolve("kept"))
    lossy = dict(store.state_dict("kept", lossy=True))
    patch = store.manifest_of("kept").patch
    assert patch
    done = store.drop_exact("kept")
    after = store.commit_record(store.resolve("kept"))
    assert (done.ref, done.after, done.patch) == ("kept", store.resolve("kept"), patch)
    assert done.bytes == store.objects.size(patch)
    assert tiny.same_tensors(dict(store.state_dict("kept")), lossy)
    changed = {"manifest", "quality", "stored_bytes"}
    assert {field for field in vars(before) if getattr(before, field) != getattr(after, field)} == changed
    manifest = store.manifest_of("kept")
    assert replace(manifest, patch=patch) == store.manifest_of(done.before)
    assert manifest.patch is None
    quality = {"exact": "no", "asked_exact": "no", "relative_error": before.quality["lossy_error"]}
    kept = {key: value for key, value in before.quality.items() if key != "lossy_error"}
    assert after.quality == kept | quality
    assert done.relative_error == float(before.quality["lossy_error"]) == store.log(["kept"])[0].relative_error
    assert store.fsck(deep=True).clean


def test_it_is_an_operation_like_others(store: Store) -> None:
    before = store.resolve("kept")
    expected = dict(store.state_dict("kept"))
    done = store.drop_exact("kept")
    entry = store.reflog("kept")[0]
    assert (entry.commit, entry.previous, entry.operation) == (done.after, before, done.operation)
    assert "exact remainder" in entry.message
    assert store.resolve("kept@{1}") == before
    assert tiny.same_tensors(dict(store.state_dict("kept@{1}")), expected)
    store.undo()
    assert store.resolve("kept") == before
    assert tiny.same_tensors(dict(store.state_dict("kept")), expected)


def test_garbage_collection_frees_it_when_the_reflog_forgets(store: Store) -> None:
    done = store.drop_exact("kept")
    tiny.make_older(store.storage, 89 * tiny.DAY)
    assert store.gc(grace_days=0).deleted_objects == 0
    tiny.make_older(store.storage, 2 * tiny.DAY)
    sizes = {held.oid: held.size for held in store.objects.list()}
    freed = store.gc(grace_days=0)
    assert not store.objects.exists(done.patch)
    assert not store.objects.exists(done.before)
    assert freed.freed_bytes >= done.bytes
    assert freed.deleted_objects == 3  # patch, manifest, commit
    assert sum(sizes.values()) - freed.freed_bytes == sum(held.size for held in store.objects.list())
    assert store.fsck(deep=True).clean


def test_what_the_commit_says_to_have_added_is_what_it_takes(tmp_path: Path, models: Path) -> None:
    tiny.make_store(LocalStorage(tmp_path / "store"))
    store = reopened(LocalStorage(tmp_path / "store"))
    store.import_base(models / "base", name="base")
    before = taken(store)
    store.commit(models / "exact", name="x", base="base", quality=tiny.EXACT)
    store.drop_exact("x")
    forgotten = len(store.storage.read("refs/x/0000000000000001"))  # an entry of its reflog, which it did add
    tiny.make_older(store.storage, 1)  # what is written in the same tick of the clock as the collection begins is kept
    store.gc(grace_days=0, reflog_days=0)
    assert len(tiny.keys_of(store.storage, "refs/x/")) == 1
    (entry,) = store.log(["x"], limit=1)
    assert entry.stored_bytes == taken(store) - before + forgotten


def taken(store: Store) -> int:
    return sum(entry.size for entry in store.storage.list() if not entry.key.startswith("gc/"))


def test_a_dry_run_says_the_same_and_does_nothing(store: Store) -> None:
    before = all_of(store)
    said = store.drop_exact("kept", dry_run=True)
    assert all_of(store) == before
    done = store.drop_exact("kept")
    assert replace(done, after=None, operation=None) == said
    assert done.after
    assert done.operation


def test_a_second_commit_of_the_same_files_is_exact_again(store: Store, models: Path) -> None:
    store.drop_exact("kept")
    again = store.commit(models / "exact", name="kept", quality=tiny.EXACT)
    assert again.exact
    assert not again.unchanged
    store.drop_exact("kept")
    assert store.commit(models / "exact", name="kept", quality=Quality()).unchanged


def test_an_earlier_version_keeps_its_own(store: Store) -> None:
    """Its history still leads to what an earlier version needs, exact remainders that the dropped one built on included."""
    earlier = dict(store.state_dict("exact~1"))
    store.drop_exact("exact")
    tiny.make_older(store.storage, 1000 * tiny.DAY)
    store.gc(grace_days=0)
    assert tiny.same_tensors(dict(store.state_dict("exact~1")), earlier)
    assert store.fsck(deep=True).clean


# ---------------------------------------------------------------------------------------------------------- refusals


def refused(store: Store, name: str, error: type[Exception], words: str) -> None:
    before = all_of(store)
    for dry_run in (True, False):
        with pytest.raises(error, match=words) as refusal:
            store.drop_exact(name, dry_run=dry_run)
        assert getattr(refusal.value, "hint", None)
    after = {key: value for key, value in all_of(store).items() if not key.startswith("gc/")}
    assert after == {key: value for key, value in before.items() if not key.startswith("gc/")}


def test_a_descendant_needs_it(store: Store, models: Path) -> None:
    store.commit(models / "lossy", parent="kept", name="child")
    refused(store, "kept", ConflictError, "still needed by the branch 'child', which goes back to it")
    store.delete_branches(["child"])
    assert store.drop_exact("kept").after


def test_a_tag_and_another_branch_name_it(store: Store) -> None:
    store.branch("other", "kept")
    refused(store, "kept", ConflictError, "the branch 'other', which names the same commit")
    store.tag("v1", "kept")
    store.delete_branches(["other"])
    refused(store, "kept", ConflictError, "the tag 'v1', which names the same commit")
    store.delete_tags(["v1"])
    assert store.drop_exact("kept").after


def test_another_exact_remainder_builds_on_it(store: Store) -> None:
    """A patch whose predictor is the stored value of a manifest that no history of its own leads to."""
    exact, kept = store.commit_record(store.resolve("exact")), store.manifest_of("kept")
    held = store.objects.open("patch", str(store.manifest_of("exact").patch))
    index = {key: value for key, value in held.index.items() if key != "segments"}
    for tensor in index["tensors"].values():
        tensor["predictor"] = ["stored", store.commit_record(store.resolve("kept")).manifest]
    with store.objects.writer("patch") as writer:
        for segment, content in zip(held.segments, held.read_many(range(len(held.segments))), strict=True):
            writer.add(content, raw_length=segment.raw_length, stage=segment.stage)
        patch = writer.finish(index).oid
    assert Patch.open(store.objects, patch).manifests
    manifest = store.objects.put_record("manifest", replace(kept, patch=patch).to_record()).oid
    store.record(replace(exact, manifest=manifest), "builds", store.begin(), expected=0)
    refused(store, "kept", ConflictError, "the branch 'builds', whose own exact remainder builds on it")


def test_the_history_of_the_branch_needs_it(store: Store) -> None:
    tip = store.resolve("kept")
    again = replace(store.commit_record(tip), parents=(tip,))
    store.record(again, "kept", store.begin(), expected=store.ref("kept").number)
    refused(store, "kept", ConflictError, "also that of an earlier version")


def test_what_has_none(store: Store, models: Path) -> None:
    refused(store, "lossy", UsageError, "'lossy' has no exact remainder")
    refused(store, "base", UsageError, "'base' has no exact remainder")
    refused(store, "nothing", UnknownRevisionError, "no revision 'nothing'")
    refused(store, "kept~1", UnknownRevisionError, "no revision")
    store.tag("v1", "kept")
    refused(store, "v1", ConflictError, "'v1' is a tag")
    store.commit(models / "exact", base="base", name="archive", quality=Quality(exact_only=True))
    refused(store, "archive", UsageError, "'archive' was committed with --exact-only")


def test_a_branch_that_is_moved_meanwhile_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Store.record

    def interrupted(self: Store, *arguments: object, **options: object) -> object:
        entry = self.ref("kept")
        self.refs.update(
            "kept",
            self.resolve("lossy"),
            expected=entry.number,
            kind="branch",
            operation="0" * 32,
            writer="0" * 32,
            message="meanwhile",
        )
        return record(self, *arguments, **options)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(Store, "record", interrupted)
    with pytest.raises(RefConflictError):
        store.drop_exact("kept")
    assert store.resolve("kept") == store.resolve("lossy")
