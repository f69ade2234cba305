"""Matching a checkpoint's tensor names to its base's: the same trunk is saved under different prefixes.

``bert.encoder...`` in a classifier is ``encoder...`` in a bare model, ``module.`` comes from a wrapper, and
the language model inside a multi-modal one has a prefix of its own. Names that agree are matched first; then the pair
of prefixes (one taken off, one put on) that explains most of what is left, as long as it explains a good part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from erestore.checkpoint.dtypes import is_floating
from erestore.errors import CheckpointError

_SMALLEST_SHARE = 0.125
"""Part of the smaller model that a pair of prefixes must explain: less is a coincidence of two heads' names."""

_PAIRS_TRIED = 16


class Typed(Protocol):
    """Anything with a data type (safetensors code) and a shape."""

    @property
    def dtype(self) -> str:
        """Code of the data type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""


class Prefixes(NamedTuple):
    """What is taken off a checkpoint's name and put on to get the base's."""

    own: str
    base: str

    def rename(self, name: str) -> str | None:
        """Return the base's name for `name`, or None if it does not have the prefix."""
        return self.base + name[len(self.own) :] if name.startswith(self.own) else None


@dataclass(frozen=True)
class Match:
    """Which tensor of a base each tensor of a checkpoint is a variant of.

    Attributes
    ----------
    keys : Mapping[str, str]
        Own name to base name; no base name twice. The shapes are equal, or differ in the first of two or more
        dimensions only (a vocabulary that grew or shrank).
    prefixes : tuple of Prefixes
        The pairs that were needed besides equal names.
    unmatched_own, unmatched_base : tuple of str
        Names without a counterpart.
    mismatched : Mapping[str, (tuple of int, tuple of int)]
        Own names that the base has too (after the change of prefix; where nothing matches, by their tails), with shapes
        (own, base) that do not fit; they are in `unmatched_own` as well.
    matched_elements, total_elements : int
        Elements in common, and in the smaller of the two.
    """

    keys: Mapping[str, str]
    prefixes: tuple[Prefixes, ...]
    unmatched_own: tuple[str, ...]
    unmatched_base: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    matched_elements: int
    total_elements: int

    @property
    def description(self) -> str:
        """The prefixes in words; empty if names agree as they are."""
        return ", ".join(f"'{pair.own}' → '{pair.base}'" for pair in self.prefixes)

    def require_same_architecture(self) -> None:
        """Refuse a base that the checkpoint is no variant of.

        Raises
        ------
        CheckpointError
            If less than half of the smaller model's elements are matched, with the first mismatch and the counts.
        """
        if 2 * self.matched_elements >= self.total_elements:
            return
        if self.mismatched:
            name, (own, base) = next(iter(self.mismatched.items()))
            first = f"'{name}' is {list(own)} here and {list(base)} in the base"
        else:
            first = f"the base has nothing like '{self.unmatched_own[0]}'"
        share = self.matched_elements / self.total_elements
        raise CheckpointError(
            f"The checkpoint has another architecture than its base: {first}; {len(self.keys)} of "
            f"{len(self.keys) + len(self.unmatched_own)} tensors match ({share:.0%} of the values).",
            hint="Choose the base that it was fine-tuned from, or make it a base itself with `erestore import`.",
        )


def match_names(own: Mapping[str, Typed], base: Mapping[str, Typed]) -> Match:
    """Match names, first exactly and then by prefixes.

    Parameters
    ----------
    own : Mapping[str, TensorInfo]
        The checkpoint's tensors by name.
    base : Mapping[str, TensorInfo or WholeTensor]
        The base's.

    Returns
    -------
    Match
        Call :meth:`Match.require_same_architecture` to refuse a wrong base.
    """
    total = min(_elements(own.values()), _elements(base.values()))
    keys = {name: name for name in own if name in base and fits(own[name], base[name])}
    pairs: list[Prefixes] = []
    while pair := _best_pair(own, base, keys, total):
        pairs.append(pair)
        keys.update(_matched_by(pair, own, base, keys))
    taken = set(keys.values())
    return Match(
        keys={name: keys[name] for name in own if name in keys},
        prefixes=tuple(pairs),
        unmatched_own=tuple(name for name in own if name not in keys),
        unmatched_base=tuple(name for name in base if name not in taken),
        mismatched=_mismatched(own, base, keys, [Prefixes("", ""), *pairs]),
        matched_elements=sum(_shared(own[name], base[key]) for name, key in keys.items()),
        total_elements=total,
    )


def fits(own: Typed, base: Typed) -> bool:
    """Tell whether one tensor can be a variant of another.

    Both hold real numbers or both have the same data type, and the shapes are equal or, for numbers, differ in the
    first of two or more dimensions only.
    """
    if is_floating(own.dtype) != is_floating(base.dtype) or (not is_floating(own.dtype) and own.dtype != base.dtype):
        return False
    if tuple(own.shape) == tuple(base.shape):
        return True
    return is_floating(own.dtype) and len(own.shape) >= 2 and tuple(own.shape[1:]) == tuple(base.shape[1:])


def _elements(tensors: Iterable[Typed]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _shared(own: Typed, base: Typed) -> int:
    return min(math.prod(own.shape), math.prod(base.shape))


def _best_pair(
    own: Mapping[str, Typed], base: Mapping[str, Typed], keys: Mapping[str, str], total: int
) -> Prefixes | None:
    best, best_elements = None, max(1, math.ceil(_SMALLEST_SHARE * total))
    for pair in _candidates(own, base, keys):
        matched = _matched_by(pair, own, base, keys)
        elements = sum(_shared(own[name], base[key]) for name, key in matched.items())
        if elements >= best_elements:
            best, best_elements = pair, elements + 1
    return best


def _candidates(own: Mapping[str, Typed], base: Mapping[str, Typed], keys: Mapping[str, str]) -> list[Prefixes]:
    """Return the pairs of prefixes that unmatched names of equal shape suggest by a common tail, the weightiest first.

    A tail that many names share (``bias``) says little: of each own name only the longest one that the base has counts.
    """
    taken = set(keys.values())
    tails: dict[str, list[str]] = {}
    for key in base:
        if key not in taken:
            for _, tail in _splits(key):
                tails.setdefault(tail, []).append(key)
    votes: Counter[Prefixes] = Counter()
    for name in own:
        if name in keys:
            continue
        for prefix, tail in _splits(name):
            found = [key for key in tails.get(tail, ()) if tuple(own[name].shape) == tuple(base[key].shape)]
            for key in found[:_PAIRS_TRIED]:
                pair = Prefixes(prefix, key[: len(key) - len(tail)])
                if "." in tail or not all(pair):
                    votes[pair] += math.prod(own[name].shape)
            if found:
                break
    return [pair for pair, _ in votes.most_common(_PAIRS_TRIED)]


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield (prefix with its dot, tail) from the empty prefix on."""
    yield "", name
    position = name.find(".")
    while position >= 0:
        yield name[: position + 1], name[position + 1 :]
        position = name.find(".", position + 1)


def _matched_by(
    pair: Prefixes, own: Mapping[str, Typed], base: Mapping[str, Typed], keys: Mapping[str, str]
) -> dict[str, str]:
    taken = set(keys.values())
    return {
        name: key
        for name in own
        if name not in keys
        and (key := pair.rename(name)) is not None
        and key in base
        and key not in taken
        and fits(own[name], base[key])
    }


def _mismatched(
    own: Mapping[str, Typed], base: Mapping[str, Typed], keys: Mapping[str, str], pairs: list[Prefixes]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    taken = set(keys.values())
    found = {}
    for name in own:
        for pair in pairs if name not in keys else ():
            key = pair.rename(name)
            if key is not None and key in base and key not in taken:
                found[name] = tuple(own[name].shape), tuple(base[key].shape)
                break
    return found if found or keys else _mismatched_tails(own, base)


def _mismatched_tails(
    own: Mapping[str, Typed], base: Mapping[str, Typed]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    tails = {tail: key for key in base for _, tail in _splits(key) if "." in tail}
    found = {}
    for name in own:
        for _, tail in _splits(name):
            if tail in tails:
                found[name] = tuple(own[name].shape), tuple(base[tails[tail]].shape)
                break
    return found
