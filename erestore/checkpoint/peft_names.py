"""What the base calls a weight that an adapter calls by its name in the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from erestore.checkpoint.names import Match, Typed
from erestore.checkpoint.spelling import Spelling, name_by_name, spell, unwrapped
from erestore.errors import CheckpointError

Spellings = Callable[[], Spelling | None]
"""Returns how a library that knows the model spells its names, None if there is none."""

_HEADS = frozenset({"classifier", "qa_outputs", "score", "v_head"})
"""Modules that PEFT trains for a task and no base has: that takes no library to know."""
_LAYER = re.compile(r"(?:^|\.)\d+\.")


@dataclass
class AdapterNames:
    """Names of an adapted model, and those of its base on disk.

    Attributes
    ----------
    base : Mapping[str, Typed]
    match : Match
        Of the weights that have factors: the prefixes that these were matched by are those of the others too.
    spellings : Spellings
        Asked only where names as they are do not agree.
    """

    base: Mapping[str, Typed]
    match: Match
    spellings: Spellings

    def key(self, name: str) -> str | None:
        """Return the base's name for a weight of the model; None for one that the base does not have, such as a head."""
        if name in self.match.keys:
            return self.match.keys[name]
        for candidate in self._candidates(name):
            if (key := self._spelled.get(candidate)) is not None:
                return key
        is_head = name.partition(".")[0] in _HEADS
        return None if is_head else self._by_library(name)

    def require_new(self, name: str) -> None:
        """Make sure that a weight without a name in the base is new.

        Raises
        ------
        CheckpointError
            If it is of a layer that the base has, where it must be under another name.
        """
        layers = {
            candidate[: layer.end()] for candidate in self._candidates(name) if (layer := _LAYER.search(candidate))
        }
        if any(key.startswith(tuple(layers)) for key in self.base):
            raise CheckpointError(
                f"The adapter holds a trained '{name}', which the base has under no name that is known here.",
                hint="Choose the base that the adapter was trained on; with transformers installed, its names are known.",
            )

    def _candidates(self, name: str) -> Iterator[str]:
        yield name
        for pair in self.match.prefixes:
            if (renamed := pair.rename(name)) is not None:
                yield renamed

    @cached_property
    def _spelled(self) -> Mapping[str, str]:
        """The base's names by how they are spelled without wrappers and legacy words, and as they are."""
        return {**spell(self.base, name_by_name(unwrapped)), **{key: key for key in self.base}}

    def _by_library(self, name: str) -> str | None:
        if self._library is None:
            return None
        return self._spelled_by_library.get(self._library([name])[name])

    @cached_property
    def _library(self) -> Spelling | None:
        return self.spellings()

    @cached_property
    def _spelled_by_library(self) -> Mapping[str, str]:
        return spell(self.base, self._library) if self._library else {}
