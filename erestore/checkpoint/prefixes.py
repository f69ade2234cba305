"""Pairs of prefixes, one taken off and one put on, under which the names of two checkpoints agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from erestore.checkpoint.shapes import Typed, fits, shared_elements

_PAIRS_TRIED = 16
_HALVES = ("encoder", "decoder")
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Prefixes(NamedTuple):
    """What is taken off a checkpoint's name and put on to get the base's."""

    own: str
    base: str

    def rename(self, name: str) -> str | None:
        """Return the base's name for `name`, or None if it does not have the prefix."""
        return self.base + name[len(self.own) :] if name.startswith(self.own) else None


def best_pair(
    tensors: Mapping[str, Typed], base: Mapping[str, Typed], least: int, matched: Mapping[str, str] = _NOTHING
) -> Prefixes | None:
    """Return the pair that matches most elements, of those that match at least so many.

    Of pairs that match as many, the one below which the fewest names are left without a counterpart: an encoder is that of
    the base and not its decoder, the layers of which have the same tensors and more. If names could be several of the base
    still, it is none of them.

    Parameters
    ----------
    tensors, base : Mapping[str, Typed]
        The tensors that are not matched yet.
    least : int
    matched : Mapping[str, str]
        The names that are.
    """
    stacks = {(_stack(name), _stack(key)) for name, key in matched.items()}
    scored: dict[tuple[tuple[str, str], ...], tuple[int, int, Prefixes]] = {}
    for pair in _candidates(tensors, base):
        keys = renamed(pair, tensors, base)
        elements = sum(shared_elements(tensors[name], base[key]) for name, key in keys.items())
        if elements >= max(1, least) and not is_other_half(pair) and not _is_in_other_stack(pair, stacks):
            left = sum(name.startswith(pair.own) for name in tensors) + sum(key.startswith(pair.base) for key in base)
            scored.setdefault(tuple(sorted(keys.items())), (elements, 2 * len(keys) - left, pair))
    for names, score in sorted(scored.items(), key=lambda item: item[1][:2], reverse=True):
        rivals = [other for other, (*rank, _) in scored.items() if other != names and tuple(rank) == score[:2]]
        if dict(names).keys().isdisjoint(name for other in rivals for name, _ in other):
            return score[2]
    return None


def is_other_half(pair: Prefixes) -> bool:
    """Return whether one prefix is of an encoder and the other of a decoder, which are not the same whatever is in them."""
    parts_here, base = pair.own.split("."), pair.base.split(".")
    while parts_here and base and parts_here[-1] == base[-1]:
        parts_here.pop()
        base.pop()
    halves = [{half for part in parts for half in _HALVES if part == half} for parts in (parts_here, base)]
    return bool(halves[0] and halves[1]) and halves[0].isdisjoint(halves[1])


def renamed(pair: Prefixes, tensors: Mapping[str, Typed], base: Mapping[str, Typed]) -> dict[str, str]:
    """Return the names that a pair of prefixes makes names of fitting tensors of the base."""
    return {
        name: key
        for name in tensors
        if (key := pair.rename(name)) is not None and key in base and fits(tensors[name], base[key])
    }


def splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield (prefix with its dot, tail) from the empty prefix on."""
    yield "", name
    position = name.find(".")
    while position >= 0:
        yield name[: position + 1], name[position + 1 :]
        position = name.find(".", position + 1)


def _stack(name: str) -> str:
    """Return what is in front of the last number of a layer in a name or prefix; empty if there is none."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdecimal()]
    return "".join(f"{part}." for part in parts[: numbers[-1]]) if numbers else ""


def _is_in_other_stack(pair: Prefixes, stacks: Collection[tuple[str, str]]) -> bool:
    """Return whether a pair is of one layer, of a stack whose other layers are matched to those of another stack."""
    stack, base = _stack(pair.own), _stack(pair.base)
    partners = {theirs for ours, theirs in stacks if stack and ours == stack}
    return bool(partners) and base not in partners


def modules(names: Iterable[str]) -> set[str]:
    """Return the names, with their dot, of the modules that tensors are in; the empty one included."""
    return {prefix for name in names for prefix, _ in splits(name)}


def _candidates(tensors: Mapping[str, Typed], base: Mapping[str, Typed]) -> list[Prefixes]:
    """Return the pairs of prefixes that names of equal shape suggest by a common tail, the weightiest first.

    A tail that many names share (``bias``) says little: of each own name only the longest one that the base has counts.
    """
    tails: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for key, tensor in base.items():
        shape = tuple(tensor.shape)
        for _, tail in splits(key):
            keys = tails.setdefault((tail, shape), [])
            if len(keys) < _PAIRS_TRIED:
                keys.append(key)
    votes: Counter[Prefixes] = Counter()
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        for prefix, tail in splits(name):
            if keys := tails.get((tail, shape), []):
                for key in keys:
                    pair = Prefixes(prefix, key[: len(key) - len(tail)])
                    if "." in tail or not all(pair):
                        votes[pair] += math.prod(shape)
                break
    return [pair for pair, _ in votes.most_common(_PAIRS_TRIED)]
