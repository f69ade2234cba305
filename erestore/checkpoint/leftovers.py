"""What few tensors are left after the main match: matched only where one tensor alone can be meant.

A wrong base must stay a wrong base, and a new head must not be taken for another of its size. So a tower is matched as
a whole, by everything below its prefix at once, and a single tensor only if one name is the other with something in
front, in one shape, and neither has a second candidate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from erestore.checkpoint.dtypes import is_floating
from erestore.checkpoint.prefixes import Prefixes, is_other_half, splits
from erestore.checkpoint.shapes import Typed, is_alike

_SMALLEST_TOWER = 8
_COMMON_WORDS = frozenset({"weight", "bias"})

_Contents = frozenset[tuple[str, str, tuple[int, ...]]]
"""Tail of the name, kind of numbers and shape of every tensor below a prefix."""


def match_towers(tensors: Mapping[str, Typed], base: Mapping[str, Typed]) -> list[Prefixes]:
    """Return pairs of prefixes below which the same tensors are, names and shapes, as below no other prefix.

    Only stacks of layers count, of at least eight tensors: heads often have the same few tensors and are not the same.
    """
    ours, theirs = _towers(tensors), _towers(base)
    pairs: list[Prefixes] = []
    for contents in sorted(ours.keys() & theirs.keys(), key=lambda contents: (-len(contents), min(ours[contents]))):
        if len(ours[contents]) == len(theirs[contents]) == 1:
            pair = Prefixes(ours[contents][0], theirs[contents][0])
            if not is_other_half(pair) and not any(
                pair.own.startswith(other.own) or pair.base.startswith(other.base) for other in pairs
            ):
                pairs.append(pair)
    return pairs


def match_leftovers(
    tensors: Mapping[str, Typed],
    base: Mapping[str, Typed],
    own_modules: Collection[str],
    base_modules: Collection[str],
) -> dict[str, str]:
    """Match names of which one is the other with a module in front, in one shape; none that has a second candidate.

    Parameters
    ----------
    tensors, base : Mapping[str, Typed]
        The tensors that are not matched yet.
    own_modules, base_modules : collection of str
        Names, with their dot, of the modules that have matched tensors. What is in front has to be one: below a module
        of which nothing is matched, such as a head for another task, a name means something else.
    """
    ours, theirs = _by_tail(tensors), _by_tail(base)
    candidates = {
        name: {key for key in (*theirs.get(name, ()), *_whole_tails(name, base)) if is_alike(tensors[name], base[key])}
        for name in tensors
        if name not in _COMMON_WORDS
    }
    matched = {}
    for name, keys in candidates.items():
        if len(keys) == 1:
            (key,) = keys
            rivals = {
                other
                for other in (*ours.get(key, ()), *_whole_tails(key, tensors))
                if is_alike(tensors[other], base[key])
            }
            if rivals == {name} and key not in _COMMON_WORDS:
                matched[name] = key
    return {
        name: key
        for name, key in matched.items()
        if _is_in_matched_module(name, key, own_modules, base_modules)
        and not _belong_to_other_modules(name, key, tensors, base)
    }


def _is_in_matched_module(name: str, key: str, own_modules: Collection[str], base_modules: Collection[str]) -> bool:
    """Return whether what the longer of two names has in front is a module with matched tensors."""
    if len(name) == len(key):
        return True
    if len(name) > len(key):
        return name[: -len(key)] in own_modules
    return key[: -len(name)] in base_modules


def _belong_to_other_modules(name: str, key: str, tensors: Mapping[str, Typed], base: Mapping[str, Typed]) -> bool:
    """Return whether two modules both have a further parameter that is not alike, as heads for other tasks have a weight."""
    module, dot, _ = name.rpartition(".")
    other, _, _ = key.rpartition(".")
    if not dot or not other:
        return False
    for sibling in tensors:
        parent, _, parameter = sibling.rpartition(".")
        counterpart = f"{other}.{parameter}"
        if parent == module and counterpart in base and not is_alike(tensors[sibling], base[counterpart]):
            return True
    return False


def _towers(tensors: Mapping[str, Typed]) -> dict[_Contents, list[str]]:
    """Return the prefixes below which each content is, of those below which it is a stack of layers."""
    below: dict[str, list[tuple[str, str, tuple[int, ...]]]] = {}
    for name, info in tensors.items():
        kind = "real" if is_floating(info.dtype) else info.dtype
        for prefix, tail in splits(name):
            below.setdefault(prefix, []).append((tail, kind, tuple(info.shape)))
    towers: dict[_Contents, list[str]] = {}
    for prefix, contents in below.items():
        if len(contents) >= _SMALLEST_TOWER and _is_stack(tail for tail, _, _ in contents):
            towers.setdefault(frozenset(contents), []).append(prefix)
    return towers


def _is_stack(tails: Iterable[str]) -> bool:
    layers = _layers(tails)
    first = next(layers, None)
    return any(layer != first for layer in layers)


def _layers(tails: Iterable[str]) -> Iterator[str]:
    """Yield the first number in each tail, with what is before it."""
    for tail in tails:
        for prefix, rest in splits(tail):
            if rest.partition(".")[0].isdecimal():
                yield prefix + rest.partition(".")[0]
                break


def _by_tail(tensors: Mapping[str, Typed]) -> dict[str, list[str]]:
    tails: dict[str, list[str]] = {}
    for name in tensors:
        for _, tail in splits(name):
            tails.setdefault(tail, []).append(name)
    return tails


def _whole_tails(name: str, tensors: Mapping[str, Typed]) -> Iterator[str]:
    """Yield the tails of a name that are names of tensors, the name itself included."""
    return (tail for _, tail in splits(name) if tail in tensors and tail not in _COMMON_WORDS)
