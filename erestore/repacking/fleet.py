"""Variants of one base that may be encoded anew, and which parent each is to have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from erestore.analysis.similarity.inner_products import variant_products
from erestore.analysis.similarity.product_cache import ProductTable
from erestore.encoding.computed_source import on_terms
from erestore.progress import Progress
from erestore.records import Term
from erestore.repacking import parent_choice
from erestore.repacking.candidate import Candidate
from erestore.repacking.parent_choice import Cost, Node, Offer, Sizes
from erestore.repacking.reencode import mean_of, predicted_costs
from erestore.variant.rank import total_rank
from erestore.variant.variant import Variant

BASE = "base"


class RepackGroup(NamedTuple):
    """A parent that is not encoded anew itself, and variants that build on it with their parents, which come first."""

    root: Node
    members: list[tuple[int, Node]]


class Fleet:
    """Variants of one base, and the cheapest parents of those that may be encoded anew.

    Parameters
    ----------
    candidates : sequence of Candidate
    others : sequence of (str, Variant)
        What people call them, and more variants of the base that are there anyway.
    max_error : float or None
        See :meth:`erestore.repacking.candidate.Candidate.allowed`.
    max_total_rank : float
        See :func:`erestore.repacking.parent_choice.choose`.
    table : ProductTable
    progress : Progress

    Attributes
    ----------
    candidates : sequence of Candidate
    squared_norms, allowed : list of float
        Of every candidate: of all that it changed of the base, and squared error that may be made.
    means : dict of Node to tuple of int
        Candidates that have a mean as a parent.
    parents : dict of Node to Node
        The parent of every candidate that is to be encoded anew.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        others: Sequence[tuple[str, Variant]],
        max_error: float | None,
        max_total_rank: float,
        table: ProductTable,
        progress: Progress,
    ) -> None:
        self.candidates = candidates
        self._variants = [*(candidate.variant for candidate in candidates), *(variant for _, variant in others)]
        self._names = [*(candidate.name for candidate in candidates), *(name for name, _ in others)]
        self._progress = progress
        self._products = variant_products(self._variants, table, progress)
        self.squared_norms = [max(0.0, float(self._products[index, index])) for index in range(len(candidates))]
        self.allowed = [
            candidate.allowed(max_error, norm) for candidate, norm in zip(candidates, self.squared_norms, strict=True)
        ]
        self.means: dict[Node, tuple[int, ...]] = {}
        self.parents = self._choose(max_total_rank)

    def terms(self, node: Node) -> tuple[Term, ...]:
        """Return what a node that is there adds to the base as it is."""
        return self._variants[node].manifest.terms if isinstance(node, int) else ()

    def name(self, node: Node) -> str:
        """Return what people call a node."""
        if node in self.means:
            return f"the mean of {len(self.means[node])}"
        return self._names[node] if isinstance(node, int) else BASE

    def variants(self, places: Iterable[int]) -> list[Variant]:
        """Return some of the variants."""
        return [self._variants[index] for index in places]

    def groups(self) -> Iterator[RepackGroup]:
        """Yield what is to be encoded anew."""
        children: dict[Node, list[int]] = {}
        for node, parent in self.parents.items():
            assert isinstance(node, int)
            children.setdefault(parent, []).append(node)
        for root in [node for node in children if node not in self.parents]:
            members, waiting = list[tuple[int, Node]](), [root]
            for parent in waiting:
                members += ((node, parent) for node in children.get(parent, ()))
                waiting += children.get(parent, ())
            yield RepackGroup(root, members)

    def _choose(self, max_total_rank: float) -> dict[Node, Node]:
        costs: dict[Node, Cost] = {BASE: Cost(0.0, 0.0)}
        for index, variant in enumerate(self._variants):
            size = self.candidates[index].residual_bytes if index < len(self.candidates) else 0
            costs[index] = Cost(size, total_rank(variant))
        offers: dict[tuple[Node, Node], Offer] = {}
        for index in range(len(self.candidates)):
            squared_norm = self._own_squared_norm(index)
            for other in parent_choice.nearest(self._products, index, squared_norm):
                noise = self.allowed[other] if other < len(self.candidates) else 0.0
                offers[other, index] = self._offer(index, self.terms(other), noise)
            if len(self.terms(index)) > 1 and self.squared_norms[index] < squared_norm / parent_choice.NEAR:
                offers[BASE, index] = self._offer(index, ())
        means = dict(self._means(offers))
        return parent_choice.choose(Sizes(costs, offers, means), max_total_rank)

    def _means(self, offers: dict[tuple[Node, Node], Offer]) -> Iterator[tuple[Node, Cost]]:
        """Yield means and what they take, and add what variants would take on top of them."""
        for number, members in enumerate(parent_choice.clusters(self._products, range(len(self.candidates)))):
            near = [
                member
                for member in members
                if parent_choice.squared_distance_to_mean(self._products, member, members)
                < self._own_squared_norm(member)
            ]
            if len(near) < parent_choice.SMALLEST_CLUSTER:
                continue
            node, mean = f"mean {number}", mean_of(self.variants(members))
            self.means[node] = members
            for member in near:
                offers[node, member] = self._offer(
                    member, mean.variant.manifest.terms, self.mean_error(node), is_mean=True
                )
            base = on_terms(mean.variant.objects, mean.variant, ())
            yield node, predicted_costs(mean, base, self.mean_error(node), 0.0, self._progress)[0]

    def mean_error(self, mean: Node) -> float:
        """Return the squared error that a mean may have: as much as those that make up for it may make."""
        return min(self.allowed[member] for member in self.means[mean])

    def _offer(self, index: int, terms: Sequence[Term], noise: float = 0.0, *, is_mean: bool = False) -> Offer:
        """Predict what a variant takes on a parent, as it is and with an error of its own; a mean has that anyway."""
        original = self.candidates[index].original
        parent = on_terms(original.variant.objects, original.variant, tuple(terms))
        as_is, anew = predicted_costs(original, parent, self.allowed[index], noise, self._progress)
        return Offer(anew if is_mean else as_is, anew)

    def _own_squared_norm(self, index: int) -> float:
        squared_norm = self.candidates[index].own_squared_norm
        return self.squared_norms[index] if squared_norm is None else squared_norm
