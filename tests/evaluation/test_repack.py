"""Repacking fleets: smaller, never beyond the error, exact ones to the bit, and just what was promised is freed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from related import SHAPES, Related

from erestore.encoding.quality import Quality
from erestore.errors import NotFoundError, UnknownRevisionError, UsageError
from erestore.history.revision import open_revision
from erestore.objects.exclusive import Reach
from erestore.ops.repack import RepackResult
from erestore.repacking import parent_choice
from erestore.repacking.candidate import Candidate
from erestore.repacking.reencode import Original
from erestore.store import Store
from erestore.variant.error_bound import known_error
from erestore.variant.variant import Variant

ERROR = 1e-3


def residual_bytes(store: Store) -> int:
    """What all residuals, exact remainders and manifests in the store take."""
    return sum(stored.size for stored in store.objects.list())


def content(store: Store) -> dict[str, bytes]:
    return {entry.key: store.storage.read(entry.key) for entry in store.storage.list()}


def reasons(done: RepackResult) -> dict[str, str]:
    return {kept.ref: kept.reason for kept in done.kept}


@pytest.mark.parametrize(("dtype", "count", "times"), [(torch.float32, 12, 4), (torch.bfloat16, 6, 3)])
def test_a_fleet_with_a_common_shift_becomes_several_times_smaller(
    tmp_path: Path, dtype: torch.dtype, count: int, times: float
) -> None:
    world = Related(tmp_path, dtype=dtype)
    names = world.fleet(count, Quality(max_error=1e-4), size=0.012)
    base_bytes = {usage.name: usage.own_bytes + usage.shared_bytes for usage in world.store.du().variants}["base"]
    before, size = world.values(), residual_bytes(world.store) - base_bytes
    done = world.store.repack(max_error=ERROR)
    assert {each.ref for each in done.repacked} | {kept.ref for kept in done.kept} == set(names)
    assert len(done.repacked) >= count - 1
    after = world.values()
    for each in done.repacked:
        moved = world.lost(before[each.ref], after[each.ref])
        assert moved == pytest.approx(each.repack_error, rel=0.02)
        assert each.repack_error <= ERROR
        assert each.bytes_after < each.bytes_before
        assert world.store.show(each.ref).message == world.store.show(f"{each.ref}@{{1}}").message
    for kept in done.kept:
        assert all(torch.equal(before[kept.ref][key], after[kept.ref][key]) for key in SHAPES)
    collected = world.store.gc(reflog_days=0, grace_days=0)
    assert collected.freed_bytes == done.freed_bytes > 0
    assert residual_bytes(world.store) == done.bytes_after
    assert size > times * (residual_bytes(world.store) - base_bytes)
    found = world.store.fsck(deep=True)
    assert found.clean
    assert found.unreachable == ()
    again = world.store.repack(max_error=ERROR)
    assert sum(each.bytes_after for each in again.repacked) >= 0.5 * sum(each.bytes_before for each in again.repacked)


def test_by_default_a_quarter_of_what_was_lost_is_added_and_no_more_the_next_time(tmp_path: Path) -> None:
    world = Related(tmp_path)
    world.fleet(5)
    before = world.values()
    done = world.store.repack()
    assert done.repacked
    assert all(each.repack_error <= ERROR / 4 * 1.001 for each in done.repacked)
    for each in done.repacked:
        commit = world.store.commit_record(world.store.resolve(each.ref))
        original = Original(Variant.open(world.store.objects, commit.manifest))
        allowed = Candidate(each.ref, commit, original, {}).allowed(None, 2.0)
        assert allowed == pytest.approx(2 * each.repack_error)
    world.store.repack()
    for name, value in world.values().items():
        assert world.lost(before[name], value) <= ERROR


def test_exact_variants_stay_exact(tmp_path: Path) -> None:
    world = Related(tmp_path)
    shift = world.shift()
    for number in range(6):
        world.tune(f"v{number}", shift, world.own(), quality=Quality(exact=number % 2 == 0, max_error=ERROR))
    former = {name: world.store.show(name) for name in world.originals}
    done = world.store.repack()
    exact = [each for each in done.repacked if each.exact]
    assert len(exact) >= 2
    for each in exact:
        found = world.store.state_dict(each.ref)
        assert all(torch.equal(found[key], value) for key, value in world.originals[each.ref].items())
        shown = world.store.show(each.ref)
        assert shown.exact
        lossy = dict(world.store.state_dict(each.ref, lossy=True))
        lost = world.lost(world.originals[each.ref], lossy)
        assert shown.lossy_error == pytest.approx(lost, rel=0.02)
        assert lost <= former[each.ref].lossy_error * 1.001
    assert world.store.fsck(deep=True).clean
    # As it is the same value, the same files are there already.
    name = exact[0].ref
    assert world.store.commit(tmp_path / name, name=name, quality=Quality(exact=True, max_error=ERROR)).unchanged


def test_a_dry_run_writes_nothing_and_says_what_would_be_and_undo_takes_all_back(tmp_path: Path) -> None:
    world = Related(tmp_path)
    names = world.fleet(4)
    tips, values, before = {name: world.store.resolve(name) for name in names}, world.values(), content(world.store)
    planned = world.store.repack(dry_run=True)
    assert content(world.store) == before
    assert planned.dry_run
    assert planned.operation is None
    done = world.store.repack()
    assert [each.ref for each in planned.repacked] == [each.ref for each in done.repacked]
    assert all(each.after is None for each in planned.repacked)
    assert planned.bytes_after == pytest.approx(done.bytes_after, rel=0.01)
    assert planned.freed_bytes == pytest.approx(done.freed_bytes, rel=0.01)
    undone = world.store.undo()
    assert undone.undone == done.operation
    assert {ref.name for ref in undone.refs} == {each.ref for each in done.repacked}
    assert {name: world.store.resolve(name) for name in names} == tips
    assert all(torch.equal(values[name][key], value[key]) for name, value in world.values().items() for key in SHAPES)


def test_a_fleet_with_nothing_in_common_stays_as_it_is(tmp_path: Path) -> None:
    world = Related(tmp_path)
    for number in range(5):
        world.tune(f"v{number}", world.shift())
    before = content(world.store)
    done = world.store.repack(max_error=0.01)
    assert (done.repacked, done.added_bytes, done.freed_bytes, done.operation) == ((), 0, 0, None)
    assert done.bytes_before == done.bytes_after
    assert set(reasons(done).values()) == {"no other encoding is smaller"}
    assert content(world.store) == before


def test_what_something_else_needs_is_left_alone(tmp_path: Path) -> None:
    world = Related(tmp_path)
    names = world.fleet(7)
    world.store.tag("release", names[0])
    world.store.branch("same", names[1])
    world.store.merge(["mean(v02, v03)"], name="soup")
    world.tune("child", world.shift(0.001), parent="v04")
    before = {name: world.store.resolve(name) for name in (*names, "soup", "child")}
    done = world.store.repack([*names, "soup"], max_error=ERROR)
    found = reasons(done)
    assert found["v00"] == "the tag 'release' needs its residual"
    assert found["v01"] == "the branch 'same' needs its residual"
    assert found["v02"] == found["v03"] == "the branch 'soup' needs its residual"
    assert found["v04"] == "the branch 'child' needs its residual"
    assert found["soup"] == "it has no residual of its own"
    moved = {each.ref for each in done.repacked}
    assert moved == {"v05", "v06"}  # against those that stay
    assert all(each.parent in {*names, "same", "soup", "release"} for each in done.repacked)
    assert all(world.store.resolve(name) == oid for name, oid in before.items() if name not in moved)
    assert world.store.gc(reflog_days=0, grace_days=0).freed_bytes == done.freed_bytes
    assert world.store.fsck(deep=True).clean


def test_heads_and_added_rows_stay(tmp_path: Path) -> None:
    world = Related(tmp_path)
    shift = world.shift()
    for number in range(5):
        own = world.own()
        grown = torch.cat([world.base["one.weight"] + shift["one.weight"] + own["one.weight"], world.noise(3, 80)])
        more = {"head.weight": world.noise(number + 1, 80)}
        if number % 2:
            more["one.weight"] = grown
        elif number == 4:
            more["one.weight"] = grown[:60]
        world.tune(f"v{number}", shift, own, **more)
    before = world.values()
    done = world.store.repack(max_error=ERROR)
    assert len(done.repacked) >= 4
    for name, value in world.values().items():
        assert torch.equal(value["head.weight"], before[name]["head.weight"])
        assert torch.equal(value["one.weight"][96:], before[name]["one.weight"][96:])
        assert value["one.weight"].shape == before[name]["one.weight"].shape
    assert world.store.gc(reflog_days=0, grace_days=0).freed_bytes == done.freed_bytes
    assert world.store.fsck(deep=True).clean


def test_the_last_link_of_a_chain_may_go_back_to_its_base(tmp_path: Path) -> None:
    """Its parent went astray, and it takes that back: on the base it is small."""
    world = Related(tmp_path)
    far = world.shift(0.02)
    world.tune("astray", far)
    world.tune("back", world.own(), parent="astray")
    before = world.values()
    done = world.store.repack(max_error=0.01)
    (only,) = done.repacked
    assert (only.ref, only.parent) == ("back", "base")
    assert only.bytes_after < 0.5 * only.bytes_before
    assert only.rank_after < only.rank_before
    shown = world.store.show("back")
    assert shown.parents == (world.store.resolve("astray"),)
    assert (shown.edge, len(shown.terms)) == ("adapted", 1)
    assert world.lost(before["back"], world.values()["back"]) <= 0.01


def test_the_limit_of_a_checkouts_cost_is_kept(tmp_path: Path) -> None:
    world = Related(tmp_path)
    world.fleet(4)
    free = world.store.repack(max_error=ERROR, max_total_rank=0, dry_run=True)
    assert free.repacked
    limit = int(min(each.rank_after for each in free.repacked)) - 1
    tight = world.store.repack(max_error=ERROR, max_total_rank=limit, dry_run=True)
    assert all(each.rank_after <= max(limit, each.rank_before) for each in tight.repacked)
    assert len(tight.repacked) < len(free.repacked)


def true_error(world: Related, revision: str, original: dict[str, torch.Tensor]) -> float:
    """Squared error of a linear value."""
    variant = open_revision(world.store, revision).variant(world.store, lossy=True)
    total = 0.0
    for key, value in original.items():
        found = variant.linear(key)
        total += float(
            np.square(found.rows(0, len(found.base)) - value.double().numpy().reshape(found.base.shape)).sum()
        )
    return total


def test_bounds_cover_what_was_lost_before_and_now(tmp_path: Path) -> None:
    """Of repacked variants, of what continues them, and of what is merged of them, against what was really committed."""
    world = Related(tmp_path)
    names = world.fleet(6, Quality(max_error=0.01))
    done = world.store.repack(max_error=0.01)
    moved = {each.ref: each for each in done.repacked}
    assert len(moved) >= 5
    for name in names:
        original = world.originals[name]
        size = sum(float((original[key].double() - world.base[key].double()).square().sum()) for key in SHAPES)
        truth = true_error(world, name, original) / size
        commit = world.store.commit_record(world.store.resolve(name))
        bound = max(filter(None, known_error(world.store.objects, commit)))
        assert truth <= bound * 1.001
        if name in moved:
            assert moved[name].error_bound == bound
            assert truth > 0.005
            assert bound < 4.05 * 0.01
    one, two, three = list(moved)[:3]
    child = {key: world.originals[one][key] - world.base[key] for key in SHAPES}
    world.tune("child", child, world.own(), parent=one)
    shown = world.store.show("child")
    assert shown.relative_error is not None
    assert shown.relative_error <= ERROR
    for expression, parts in (
        (f"0.5*{one} + 0.5*{two}", {one: 0.5, two: 0.5}),
        (f"{one} + child - {two}", {one: 1, "child": 1, two: -1}),
        (f"mean({one}, {two}, {three}, child)", {one: 0.25, two: 0.25, three: 0.25, "child": 0.25}),
    ):
        world.store.merge([expression], name="merged")
        shown = world.store.show("merged")
        wanted = {
            key: world.base[key].double()
            + sum(
                part * (world.originals[name][key].double() - world.base[key].double()) for name, part in parts.items()
            )
            for key in SHAPES
        }
        norms = 0.0
        for term in world.store.manifest_of("merged").terms:
            index = world.store.objects.open("residual", term.residual).index
            norms += float(term.coefficient) ** 2 * sum(
                float(each["errors"]["norm"]) for each in index["tensors"].values()
            )
        truth = true_error(world, "merged", wanted) / norms
        assert shown.error_bound is not None
        assert truth <= shown.error_bound * 1.01, expression
        assert shown.error_bound < 20 * truth, expression


def test_a_mean_that_does_not_pay_for_itself_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sizes were predicted wrongly, what is written decides."""
    world = Related(tmp_path)
    names = world.fleet(3, size=0.003)
    monkeypatch.setattr(parent_choice, "choose", lambda *_: dict.fromkeys(range(2), "mean 0"))
    before = content(world.store)
    done = world.store.repack(max_error=ERROR / 4)
    assert (done.repacked, done.means, done.added_bytes) == ((), (), 0)
    assert sorted(reasons(done).values()).count("sharing with others would take more space") == 2
    assert reasons(done).keys() == set(names)
    assert content(world.store) == before


def test_what_a_parent_needs_is_not_free(tmp_path: Path) -> None:
    world = Related(tmp_path)
    world.tune("first", world.shift())
    world.tune("second", world.own(), parent="first")
    first, second = (world.store.commit_record(world.store.resolve(name)) for name in ("first", "second"))
    world.store.delete_branches(["first"])
    reach = Reach(world.store.objects, {"second": world.store.resolve("second")})
    found = reach.exclusive("second", second.parents)
    assert {*second.own, second.manifest} <= found
    assert not {*first.own, first.manifest} & found


def test_what_cannot_be_repacked_is_refused(tmp_path: Path) -> None:
    world = Related(tmp_path)
    with pytest.raises(NotFoundError, match="no variants"):
        world.store.repack()
    world.fleet(3)
    world.store.tag("v1.0", "v00")
    with pytest.raises(UsageError, match="a base"):
        world.store.repack(["base"])
    with pytest.raises(UsageError, match="not a branch"):
        world.store.repack(["v1.0"])
    with pytest.raises(UsageError, match="not a branch"):
        world.store.repack(["v00~1"])
    with pytest.raises(UnknownRevisionError):
        world.store.repack(["v0x"])
    with pytest.raises(UsageError, match="between"):
        world.store.repack(max_error=2)


def test_what_keeps_more_or_less_than_a_residual_stays(tmp_path: Path) -> None:
    world = Related(tmp_path)
    shift = world.shift()
    world.fleet(3)
    world.tune("paper", shift, quality=Quality(codec="ere"))
    world.tune("whole", shift, quality=Quality(exact_only=True))
    world.tune("same")
    found = reasons(world.store.repack(["paper", "whole", "same"]))
    assert "ere" in found["paper"]
    assert "exact remainder" in found["whole"]
    assert found["same"] == "it has no residual of its own"


def test_one_that_another_writer_moves_meanwhile_is_left_alone(tmp_path: Path) -> None:
    world = Related(tmp_path)
    names = world.fleet(6)
    moved: list[str] = []

    def progress(what: str, _done: int, _total: int) -> None:
        if what == "encoding" and not moved:
            for name in names[:2]:  # one of them at least is to be encoded anew
                moved.append(name)
                Store.open(tmp_path / "store")
                world.tune(f"{name}-next", world.own(), parent=name)
                world.store.branch(name, f"{name}-next", force=True)

    done = world.store.repack(max_error=ERROR, progress=progress)
    assert {"another writer moved it meanwhile"} <= {reasons(done)[name] for name in names[:2] if name in reasons(done)}
    assert all(world.store.resolve(name) == world.store.resolve(f"{name}-next") for name in names[:2])
    assert {each.ref for each in done.repacked} <= set(names[2:])
    assert done.repacked
    assert world.store.fsck(deep=True).clean


def test_what_is_interrupted_has_moved_some_and_can_be_repeated(tmp_path: Path) -> None:
    world = Related(tmp_path)
    names = world.fleet(6)
    tips, before = {name: world.store.resolve(name) for name in names}, world.values()

    def progress(what: str, _done: int, _total: int) -> None:
        if what == "verifying" and sum(world.store.resolve(name) != oid for name, oid in tips.items()) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.store.repack(max_error=ERROR, progress=progress)
    assert sum(world.store.resolve(name) != oid for name, oid in tips.items()) == 2
    assert world.store.fsck(deep=True).clean
    assert not list(world.store.storage.list("gc/leases/"))
    assert all(world.lost(before[name], value) <= ERROR for name, value in world.values().items())
    world.store.gc(reflog_days=0, grace_days=0)
    done = world.store.repack(max_error=ERROR)
    assert done.bytes_after <= done.bytes_before
    assert world.store.gc(reflog_days=0, grace_days=0).freed_bytes == done.freed_bytes


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    groups=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.002, 0.006])), min_size=1, max_size=3),
    error=st.sampled_from([None, 1e-4, 1e-2]),
    limit=st.sampled_from([0, 120, 512]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_random_fleets(
    seed: int, groups: list[tuple[int, float]], error: float | None, limit: int, dtype: torch.dtype
) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = Related(Path(place), seed, dtype)
        for group, (count, size) in enumerate(groups):
            shift = world.shift(size)
            for number in range(count):
                exact = bool(torch.randint(4, (), generator=world.random) == 0)
                quality = Quality(exact=exact, max_error=0.003)
                world.tune(f"g{group}-{number}", shift, world.own(), quality=quality)
        before, commits = world.values(), {name: world.store.show(name) for name in world.originals}
        done = world.store.repack(max_error=error, max_total_rank=limit)
        assert done.bytes_after <= done.bytes_before
        assert done.bytes_before + done.added_bytes - done.freed_bytes == done.bytes_after
        after = world.values()
        moved = {each.ref: each for each in done.repacked}
        for name, former in commits.items():
            lost = world.lost(before[name], after[name])
            if name not in moved or former.exact:
                assert lost == 0
                continue
            allowed = error or former.relative_error / 4
            assert lost <= allowed * 1.01
            assert not limit or moved[name].rank_after <= max(limit, moved[name].rank_before)
        assert world.store.gc(reflog_days=0, grace_days=0).freed_bytes == done.freed_bytes
        assert world.store.fsck(deep=True).clean
