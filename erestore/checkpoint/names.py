"""Matching a checkpoint's tensor names to its base's: the same tensor is saved under different names.

``bert.encoder...`` in a classifier is ``encoder...`` in a bare model, ``module.`` comes from a wrapper, and
the language model inside a multi-modal one has a prefix of its own. Names that agree are matched first, then those that
agree once wrappers and legacy names are spelled alike (:mod:`erestore.checkpoint.spelling`); then the pair of prefixes
(one taken off, one put on) that explains most of what is left, as long as it explains a good part; and of what little is
left then, what can be meant by one tensor only (:mod:`erestore.checkpoint.leftovers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from erestore.checkpoint.experts import FusedAgainstSingle, fused_against_single
from erestore.checkpoint.leftovers import match_leftovers, match_towers
from erestore.checkpoint.prefixes import Prefixes, best_pair, modules, renamed, splits
from erestore.checkpoint.quantised_weights import mark_codes
from erestore.checkpoint.shapes import QuantisedCodes, Typed, describe_form, elements, fits, shared_elements
from erestore.checkpoint.spelling import Spelling, by_spelling, moved, name_by_name, spell, unwrapped, wrappers_of
from erestore.errors import CheckpointError

__all__ = ["Match", "Prefixes", "Typed", "fits", "match_names"]

_SMALLEST_SHARE = 0.125
"""Part of the smaller model that a pair of prefixes must explain: less is a coincidence of two heads' names."""
_CONVERTED_SHARE = 1 / 64
"""Part of it that has to be without a counterpart before tables of another library are read, which takes seconds."""

_ARCHITECTURE = (
    "The checkpoint has another architecture than its base",
    "Choose the base that it was fine-tuned from, or make it a base itself with `erestore import`.",
)
_QUANTISED = (
    "The checkpoint is quantised and its base is not",
    "Codes are not a variant of weights: make it a base itself with `erestore import`.",
)
_QUANTISED_BASE = (
    "The checkpoint is not quantised and its base is",
    "Name the model that the base was quantised from with --base, or make this a base itself with `erestore import`.",
)


@dataclass(frozen=True)
class Match:
    """Which tensor of a base each tensor of a checkpoint is a variant of.

    Attributes
    ----------
    keys : Mapping[str, str]
        Own name to base name; no base name twice. The shapes are equal, or differ in the first of two or more
        dimensions only (a vocabulary that grew or shrank).
    prefixes : tuple of Prefixes
        The pairs that were needed besides equal names. They are of names without wrappers, as
        :func:`erestore.checkpoint.spelling.unwrapped` spells them.
    wrappers : tuple of Prefixes
        Wrappers, with their dot, that only the checkpoint's names or only the base's have.
    unmatched_own, unmatched_base : tuple of str
        Names without a counterpart.
    mismatched : Mapping[str, (Typed, Typed)]
        Own names that the base has too (after the change of prefix; where nothing matches, by their tails), with tensors
        (own, base) that do not fit; they are in `unmatched_own` as well.
    matched_elements, total_elements : int
        Elements in common, and in the smaller of the two.
    experts : FusedAgainstSingle or None
        Where one side has experts fused and the other one by one.
    """

    keys: Mapping[str, str]
    prefixes: tuple[Prefixes, ...]
    unmatched_own: tuple[str, ...]
    unmatched_base: tuple[str, ...]
    mismatched: Mapping[str, tuple[Typed, Typed]]
    matched_elements: int
    total_elements: int
    wrappers: tuple[Prefixes, ...] = ()
    experts: FusedAgainstSingle | None = None

    @property
    def description(self) -> str:
        """The prefixes and wrappers in words; empty if names agree as they are."""
        return ", ".join(f"'{pair.own}' → '{pair.base}'" for pair in (*self.prefixes, *self.wrappers))

    def require_same_architecture(self) -> None:
        """Refuse a base that the checkpoint is not a variant of.

        Raises
        ------
        CheckpointError
            If less than half of the smaller model's elements are matched, with the first mismatch and the counts.
        """
        if 2 * self.matched_elements >= self.total_elements:
            return
        if self.experts is not None:
            raise CheckpointError(f"{self.experts.sentence}.", hint=self.experts.hint)
        form, hint = _ARCHITECTURE
        if self.mismatched:
            name, (tensor, base) = next(iter(self.mismatched.items()))
            first = f"'{name}' is {describe_form(tensor, base)} here and {describe_form(base, tensor)} in the base"
            if isinstance(tensor, QuantisedCodes) != isinstance(base, QuantisedCodes):
                form, hint = _QUANTISED if isinstance(tensor, QuantisedCodes) else _QUANTISED_BASE
        else:
            first = f"the base has nothing like '{self.unmatched_own[0]}'"
        share = self.matched_elements / self.total_elements
        raise CheckpointError(
            f"{form}: {first}; {len(self.keys)} of "
            f"{len(self.keys) + len(self.unmatched_own)} tensors match ({share:.0%} of the values).",
            hint=hint,
        )


def match_names(
    tensors: Mapping[str, Typed],
    base: Mapping[str, Typed],
    conversions: Callable[[], Spelling | None] | None = None,
) -> Match:
    """Match names: exactly, by spelling, by prefixes, and what little is left by what it can only be.

    Parameters
    ----------
    tensors : Mapping[str, TensorInfo]
        The checkpoint's tensors by name.
    base : Mapping[str, TensorInfo or WholeTensor]
        The base's.
    conversions : callable, optional
        Returns how a library that knows the model spells its names, or None. Called only where much is without a
        counterpart that it may have.

    Returns
    -------
    Match
        Call :meth:`Match.require_same_architecture` to refuse a wrong base.
    """
    matching = _Matching(mark_codes(tensors), mark_codes(base))
    matching.match_equal_names()
    matching.match(name_by_name(unwrapped))
    if any(moved(name) != unwrapped(name) for name in (*matching.left_own, *matching.left_base)):
        matching.match(name_by_name(moved))
    if conversions is not None and matching.alike_elements > _CONVERTED_SHARE * matching.total:
        spelling = conversions()
        if spelling is not None:
            matching.match(spelling)
    return matching.result()


_Texts = tuple[Mapping[str, str], Mapping[str, str]]
"""Of the checkpoint and of its base, how each name is spelled."""


@dataclass
class _Matching:
    """What is matched so far, and what is left on both sides."""

    own: Mapping[str, Typed]
    base: Mapping[str, Typed]
    keys: dict[str, str] = field(default_factory=dict)
    pairs: list[Prefixes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left_own: dict[str, Typed] = dict(self.own)
        self.left_base: dict[str, Typed] = dict(self.base)
        self.total = min(elements(self.own.values()), elements(self.base.values()))

    def match_equal_names(self) -> None:
        """Match names that agree as they are."""
        tensors, base = self.own, self.base
        self.add({name: name for name in tensors if name in base and fits(tensors[name], base[name])})

    def add(self, keys: Mapping[str, str]) -> None:
        """Match names that are left on both sides."""
        for name, key in keys.items():
            del self.left_own[name], self.left_base[key]
        self.keys |= keys

    def match(self, spelling: Spelling) -> None:
        """Match what is left as it is spelled."""
        if not self.left_own or not self.left_base:
            return
        texts = spelling(self.own), spelling(self.base)
        self._add_spelled(
            texts,
            lambda tensors, base: {name: name for name in tensors if name in base and fits(tensors[name], base[name])},
        )
        least = math.ceil(_SMALLEST_SHARE * self.total)
        while pair := best_pair(*self._spelled(texts), least, self._matched(texts)):
            self._add_pair(texts, pair)
        for pair in match_towers(*self._spelled(texts)):
            self._add_pair(texts, pair)
        if 2 * self.matched_elements >= self.total:
            tensors, base = texts
            own_modules = modules(tensors[name] for name in self.keys)
            base_modules = modules(base[key] for key in self.keys.values())
            self._add_spelled(texts, partial(match_leftovers, own_modules=own_modules, base_modules=base_modules))

    @property
    def matched_elements(self) -> int:
        """Elements that both sides have."""
        return sum(shared_elements(self.own[name], self.base[key]) for name, key in self.keys.items())

    @property
    def alike_elements(self) -> int:
        """Elements of what is left on the own side that is alike to something left in the base, but for its name."""
        shapes = {tuple(tensor.shape) for tensor in self.left_base.values()}
        return elements(tensor for tensor in self.left_own.values() if tuple(tensor.shape) in shapes)

    def _names(self, texts: _Texts) -> tuple[dict[str, str], dict[str, str]]:
        """Return the names that are left on both sides by their spellings."""
        names, base = texts
        return by_spelling(self.left_own, names), by_spelling(self.left_base, base)

    def _spelled(self, texts: _Texts) -> tuple[dict[str, Typed], dict[str, Typed]]:
        names, base = self._names(texts)
        return (
            {text: self.left_own[name] for text, name in names.items()},
            {text: self.left_base[key] for text, key in base.items()},
        )

    def _matched(self, texts: _Texts) -> dict[str, str]:
        """Return the names that are matched, as they are spelled."""
        names, base = texts
        return {names[name]: base[key] for name, key in self.keys.items()}

    def _add_spelled(
        self,
        texts: _Texts,
        find: Callable[[Mapping[str, Typed], Mapping[str, Typed]], Mapping[str, str]],
    ) -> None:
        names, base = self._names(texts)
        self.add({names[text]: base[key] for text, key in find(*self._spelled(texts)).items()})

    def _add_pair(self, texts: _Texts, pair: Prefixes) -> None:
        self.pairs.append(pair)
        self._add_spelled(texts, lambda tensors, base: renamed(pair, tensors, base))

    def result(self) -> Match:
        """Return what is matched."""
        wrappers: set[Prefixes] = set()
        for name, key in self.keys.items():
            ours, theirs = wrappers_of(name), wrappers_of(key)
            wrappers |= {Prefixes(f"{wrapper}.", "") for wrapper in ours - theirs}
            wrappers |= {Prefixes("", f"{wrapper}.") for wrapper in theirs - ours}
        return Match(
            keys={name: self.keys[name] for name in self.own if name in self.keys},
            prefixes=tuple(self.pairs),
            unmatched_own=tuple(self.left_own),
            unmatched_base=tuple(self.left_base),
            mismatched=self._mismatched(),
            matched_elements=self.matched_elements,
            total_elements=self.total,
            wrappers=tuple(sorted(wrappers)),
            experts=fused_against_single(map(unwrapped, self.left_own), map(unwrapped, self.left_base)),
        )

    def _mismatched(self) -> dict[str, tuple[Typed, Typed]]:
        names, base = (spell(left, name_by_name(unwrapped)) for left in (self.left_own, self.left_base))
        mismatched = {}
        for text, name in names.items():
            for pair in (Prefixes("", ""), *self.pairs):
                key = base.get(pair.rename(text) or "")
                if key is not None:
                    mismatched[name] = self.own[name], self.base[key]
                    break
        return mismatched if mismatched or self.keys else _mismatched_tails(self.own, self.base)


def _mismatched_tails(tensors: Mapping[str, Typed], base: Mapping[str, Typed]) -> dict[str, tuple[Typed, Typed]]:
    tails = {tail: key for key in base for _, tail in splits(key) if "." in tail}
    mismatched = {}
    for name in tensors:
        for _, tail in splits(name):
            if tail in tails:
                mismatched[name] = tensors[name], base[tails[tail]]
                break
    return mismatched
