"""Pairs of prefixes, one taken off and one put on, under which the names of two checkpoints agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from erestore.checkpoint.shapes import Typed, fits, shared_elements

_PAIRS_TRIED = 16


class Prefixes(NamedTuple):
    """What is taken off a checkpoint's name and put on to get the base's."""

    own: str
    base: str

    def rename(self, name: str) -> str | None:
        """Return the base's name for `name`, or None if it does not have the prefix."""
        return self.base + name[len(self.own) :] if name.startswith(self.own) else None


def best_pair(own: Mapping[str, Typed], base: Mapping[str, Typed], least: int) -> Prefixes | None:
    """Return the pair that matches most elements, of those that match at least so many.

    Parameters
    ----------
    own, base : Mapping[str, Typed]
        The tensors that are not matched yet.
    least : int
    """
    best, best_elements = None, max(1, least)
    for pair in _candidates(own, base):
        elements = sum(shared_elements(own[name], base[key]) for name, key in renamed(pair, own, base).items())
        if elements >= best_elements:
            best, best_elements = pair, elements + 1
    return best


def renamed(pair: Prefixes, own: Mapping[str, Typed], base: Mapping[str, Typed]) -> dict[str, str]:
    """Return the names that a pair of prefixes makes names of fitting tensors of the base."""
    return {
        name: key
        for name in own
        if (key := pair.rename(name)) is not None and key in base and fits(own[name], base[key])
    }


def splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield (prefix with its dot, tail) from the empty prefix on."""
    yield "", name
    position = name.find(".")
    while position >= 0:
        yield name[: position + 1], name[position + 1 :]
        position = name.find(".", position + 1)


def modules(names: Iterable[str]) -> set[str]:
    """Return the names, with their dot, of the modules that tensors are in; the empty one included."""
    return {prefix for name in names for prefix, _ in splits(name)}


def _candidates(own: Mapping[str, Typed], base: Mapping[str, Typed]) -> list[Prefixes]:
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
    for name, tensor in own.items():
        shape = tuple(tensor.shape)
        for prefix, tail in splits(name):
            if keys := tails.get((tail, shape), []):
                for key in keys:
                    pair = Prefixes(prefix, key[: len(key) - len(tail)])
                    if "." in tail or not all(pair):
                        votes[pair] += math.prod(shape)
                break
    return [pair for pair, _ in votes.most_common(_PAIRS_TRIED)]
