"""Long chains: errors at every link, what a checkout evaluates, and how both are after flattening; limits on commit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch

from erestore.api import Store
from erestore.arrays import as_tensor
from erestore.encoding.gate import Gate
from erestore.encoding.quality import Quality
from erestore.errors import UsageError
from erestore.ops.commit import CommitResult
from erestore.variant.error_bound import error_bound
from erestore.variant.rank import past_limit, term_ranks, total_rank
from erestore.variant.variant import Variant

SHAPES = {"w": (80, 64), "v": (64, 96), "b": (64,)}
RANK = 2
Tensors = dict[str, torch.Tensor]


class Chain:
    """A store, and fine-tunes that each move every matrix in two directions more."""

    def __init__(self, place: Path, flatten_rank: int) -> None:
        self.place, self.generator = place, torch.Generator().manual_seed(8)
        self.now = {name: torch.randn(shape, generator=self.generator) for name, shape in SHAPES.items()}
        self.base = self.now
        self.store = Store.init(place / "store")
        self.store.import_base(tiny.write_model(place / "base", self.now), name="base")
        self.store.set_setting("commit.flatten_rank", str(flatten_rank))
        self.done: list[CommitResult] = []
        self.extra: Tensors = {}

    def step(self, quality: Quality | None = None, name: str = "task") -> CommitResult:
        """Commit one link."""
        self.former, changed = self.now, {}
        for key, tensor in self.now.items():
            if tensor.ndim == 2:
                sides = [torch.randn(size, RANK, generator=self.generator) for size in tensor.shape]
                changed[key] = tensor + 0.02 * sides[0] @ sides[1].T
            else:
                changed[key] = tensor + 0.01 * torch.randn(tensor.shape, generator=self.generator)
        self.now = changed
        parent = {"parent": "task"} if self.done else {"base": "base"}
        path = tiny.write_model(self.place / "model", {**self.now, **self.extra})
        self.done.append(self.store.commit(path, **parent, name=name, quality=quality))
        return self.done[-1]

    def lost(self, revision: str, original: Tensors) -> float:
        """Squared error of the linear value."""
        variant, total = Variant(self.store.objects, self.store.manifest_of(revision)), 0.0
        for key, tensor in original.items():
            value = as_tensor(variant.linear(key).rows(0, SHAPES[key][0])).view(tensor.shape)
            total += float(((value - tensor.double()) ** 2).sum())
        return total


def distance(one: Tensors, other: Tensors) -> float:
    return math.fsum(float(((one[key].double() - other[key].double()) ** 2).sum()) for key in one)


def ranks(chain: Chain) -> float:
    return total_rank(Variant(chain.store.objects, chain.store.manifest_of("task")))


LENGTHS = [pytest.param(14, id="14"), pytest.param(200, id="200", marks=pytest.mark.soak)]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_long_chain_and_its_flattening(tmp_path: Path, length: int) -> None:
    """Never flattened on the way: cost grows with every link, and `flatten` brings it back to that of one residual."""
    chain = Chain(tmp_path, 0)
    own = []
    for link in range(length):
        done = chain.step()
        assert done.flattened_rank is None
        norm = distance(chain.now, chain.former)
        commit = chain.store.commit_record(done.commit)
        bound = error_bound(chain.store.objects, commit)
        lost = chain.lost("task", chain.now)
        assert bound is not None
        assert lost <= bound * norm * 1.05, link  # the bound is relative to the parent's decoded value
        assert len(chain.store.manifest_of("task").terms) == link + 1
        own.append(term_ranks(Variant(chain.store.objects, chain.store.manifest_of("task"))))
    assert ranks(chain) == pytest.approx(sum(own[-1]))
    assert ranks(chain) >= 0.9 * RANK * length  # the checkout evaluates all that was ever added
    before, whole = chain.lost("task", chain.now), distance(chain.now, chain.base)
    flat = chain.store.flatten("task", max_error=1e-4)
    assert (flat.before.terms, flat.after.terms) == (length, 1)
    assert flat.after.residual_bytes < flat.before.residual_bytes
    after = chain.lost("task", chain.now)
    assert flat.error_bound is not None
    assert before < after <= flat.error_bound * whole * 1.01
    assert flat.error_bound <= (math.sqrt(before / whole) + 1e-2) ** 2 * 1.1
    if length == 200:
        assert flat.after.rank < 0.35 * flat.before.rank
    chain.step()
    commit = chain.store.commit_record(chain.done[-1].commit)
    bound = error_bound(chain.store.objects, commit)
    assert bound is not None
    assert chain.lost("task", chain.now) <= bound * distance(chain.now, chain.former) * 1.05
    assert len(chain.store.manifest_of("task").terms) == 2


@pytest.mark.parametrize("length", LENGTHS)
def test_a_chain_under_a_limit(tmp_path: Path, length: int) -> None:
    """Links past the limit are encoded on the base; every link loses no more of its own change than was asked for."""
    limit = 12
    chain = Chain(tmp_path, limit)
    flattened = longest = 0
    for _ in range(length):
        before = (
            past_limit(Variant(chain.store.objects, chain.store.manifest_of("task")), limit) if chain.done else None
        )
        done = chain.step()
        assert done.flattened_rank == before
        terms = len(chain.store.manifest_of("task").terms)
        lost, norm = chain.lost("task", chain.now), distance(chain.now, chain.former)
        assert lost <= 0.0105 * norm
        commit = chain.store.commit_record(done.commit)
        assert commit.parents[0] == (chain.done[-2].commit if len(chain.done) > 1 else chain.store.resolve("base"))
        bound = error_bound(chain.store.objects, commit)
        assert bound is not None
        if before is not None:
            flattened += 1
            assert terms == 1
            assert commit.quality["flattened_rank"] == f"{before:.4g}"
            assert commit.quality["max_error"] == "0.01"
            assert lost <= bound * distance(chain.now, chain.base) * 1.02
            assert done.relative_error == pytest.approx(lost / distance(chain.now, chain.base), rel=0.05)
        else:
            assert lost <= bound * norm * 1.05
        longest = max(longest, terms)
    assert flattened
    assert flattened <= length / 3, "the larger the change since the base, the rarer"
    assert longest < length / 1.5
    assert chain.store.fsck(deep=True).clean


@pytest.fixture
def grown(tmp_path: Path) -> Chain:
    """A chain past its limit."""
    chain = Chain(tmp_path, 0)
    for _ in range(4):
        chain.step()
    chain.store.set_setting("commit.flatten_rank", "5")
    return chain


def test_an_exact_link_is_exact_on_the_base_too(grown: Chain) -> None:
    done = grown.step(Quality(exact=True))
    assert done.flattened_rank
    assert tiny.same_tensors(tiny.tensors_of(grown.store, "task"), grown.now)
    assert len(grown.store.manifest_of("task").terms) == 1


def test_a_gate_decides_on_the_base_too(grown: Chain) -> None:
    done = grown.step(Quality(gate=Gate("any", lambda _: True)))
    assert done.flattened_rank
    assert len(grown.store.manifest_of("task").terms) == 1


@pytest.mark.parametrize(
    "quality", [Quality(budget=20_000), Quality(codec="ere", rank=2), Quality(exact_only=True)], ids=str
)
def test_what_says_how_much_is_stored_goes_on(grown: Chain, quality: Quality) -> None:
    before = len(grown.store.manifest_of("task").terms)
    assert grown.step(quality).flattened_rank is None
    assert len(grown.store.manifest_of("task").terms) >= before


def test_files_that_hardly_differ_from_the_parent_go_on(grown: Chain) -> None:
    """The bound would be beyond what can be reached on the base."""
    again = tiny.write_model(grown.place / "again", tiny.tensors_of(grown.store, "task"))
    done = grown.store.commit(again, parent="task", name="task")
    assert done.flattened_rank is None
    assert len(grown.store.manifest_of("task").terms) == 4


def test_a_head_is_not_written_again(grown: Chain) -> None:
    grown.store.set_setting("commit.flatten_rank", "0")
    grown.extra = {"head": torch.ones(3, 4)}
    grown.step()
    held = grown.store.manifest_of("task").dense["head"]
    grown.store.set_setting("commit.flatten_rank", "5")
    assert grown.step().flattened_rank
    assert grown.store.manifest_of("task").dense["head"] == held
    assert torch.equal(grown.store.state_dict("task")["head"], grown.extra["head"])


def test_zero_is_never_and_nonsense_is_refused(grown: Chain) -> None:
    grown.store.set_setting("commit.flatten_rank", "0")
    assert grown.step().flattened_rank is None
    with pytest.raises(UsageError):
        grown.store.set_setting("commit.flatten_rank", "-1")
