"""Conflicts: what cannot be combined, as data, and what was chosen to do about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from erestore.algebra.sums import Parts
from erestore.errors import CombinationError, Conflict

CHOICES = ("ours", "theirs", "drop")
"""What to do about conflicts: take the first operand's, the last's, or leave the tensors out."""

QUANTISED = "quantised"
"""Kind of the conflicts over codes and scales."""
LABELS = "labels"
"""Kind of the conflicts over heads whose classes differ."""
_HINTS = {
    QUANTISED: (
        "Dequantise the variants with the library that wrote them, commit and combine those, and quantise the result again; "
        "or merge with --ours or --theirs, which takes every such weight from one variant."
    ),
    LABELS: (
        "If they are the same classes in the same order, make id2label and label2id in the variants' config.json equal and "
        f"commit them again. Else: {CombinationError.CHOOSE}"
    ),
}
"""By kind of conflict, what to do that a choice alone does not say; of several kinds the first counts."""


class Conflicts:
    """Conflicts as they are found.

    Parameters
    ----------
    names : sequence of str
        Of the operands, in order.
    choose : str or None
        One of :data:`CHOICES`.

    Attributes
    ----------
    found : list of Conflict
    notes : list of str
        Sentences about what was resolved without being a conflict.
    dropped : set of str
        Keys of tensors that the result does not have, as chosen.
    """

    def __init__(self, names: Sequence[str], choose: str | None) -> None:
        self.found: list[Conflict] = []
        self.notes: list[str] = []
        self.dropped: set[str] = set()
        self.choose = choose
        self._names = names

    def note(self, kind: str, key: str, reason: str, names: Sequence[str]) -> None:
        """Note a conflict."""
        self.found.append(Conflict(kind, key, reason, tuple(names)))

    def decide(self, kind: str, key: str, reason: str, having: Mapping[int, Parts]) -> Parts:
        """Note a conflict over a tensor; return what the result has of it: the chosen one of those that have it."""
        self.note(kind, key, reason, [self._names[index] for index in having])
        if self.choose in (None, "drop"):
            self._drop(kind, key)
            return ()
        return having[min(having) if self.choose == "ours" else max(having)]

    def decide_among_all(self, kind: str, key: str, reason: str, having: Collection[int]) -> int | None:
        """Note a conflict over a tensor that all have in some way; return the index of the chosen operand, None for none."""
        self.note(kind, key, reason, [self._names[index] for index in having])
        if self.choose in (None, "drop"):
            self._drop(kind, key)
            return None
        return len(self._names) - 1 if self.choose == "theirs" else 0

    def decide_operand(
        self, kind: str, subject: str, keys: Collection[str], reason: str, places: Collection[int]
    ) -> int | None:
        """Note a conflict over tensors that are one operand's or nobody's; return its index, None where they are left out."""
        self.note(kind, subject, reason, [self._names[index] for index in places])
        if self.choose in (None, "drop"):
            self.dropped.update(keys)
            return None
        return min(places) if self.choose == "ours" else max(places)

    def _drop(self, kind: str, key: str) -> None:
        """Leave a tensor out; of one with rows that cannot be combined, the rows alone."""
        if kind not in ("rows", "vocabulary"):
            self.dropped.add(key)

    def require_none(self) -> None:
        """Make sure that every conflict was decided.

        Raises
        ------
        CombinationError
            If nothing was chosen; it lists them.
        """
        if self.found and self.choose is None:
            kinds = {conflict.kind for conflict in self.found}
            hint = next((_HINTS[kind] for kind in _HINTS if kind in kinds), None)
            raise CombinationError(_sentence(self.found), tuple(self.found), hint=hint)


def _sentence(conflicts: Sequence[Conflict]) -> str:
    first = conflicts[0]
    subject = f"{first.subject}: " if first.subject else ""
    count = len(conflicts) - 1
    more = f" There {'is' if count == 1 else 'are'} {count} more conflict{'s' * (count > 1)}." if count else ""
    return f"The variants cannot be combined as they are: {subject}{first.reason}.{more}"
