"""Every error that erestore raises on purpose: one tree, one sentence, one exit code per class.

A message says in one sentence what is wrong; ``hint`` says what to do next. The command line prints both and leaves
with ``exit_code``. The codes are documented in docs/reference/exit-codes.md and are part of the public interface.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, NamedTuple


class ErestoreError(Exception):
    """Root of all errors raised on purpose.

    Parameters
    ----------
    message : str
        One sentence: what is wrong, naming the thing concerned.
    hint : str, optional
        The next step for the user, as a sentence or a command.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class GateError(ErestoreError):
    """A gate let nothing through (exit 1)."""

    exit_code = 1


class UsageError(ErestoreError):
    """The request itself makes no sense (exit 2)."""


class NotFoundError(ErestoreError):
    """Something named by the user does not exist (exit 3)."""

    exit_code = 3


class StoreNotFoundError(NotFoundError):
    """There is no store at the given place."""


class UnknownRevisionError(NotFoundError):
    """A revision names nothing; ``near`` holds similar names that exist."""

    def __init__(self, revision: str, near: tuple[str, ...] = ()) -> None:
        hint = f"Did you mean {' or '.join(near)}?" if near else "`erestore branch` lists what there is."
        super().__init__(f"There is no revision '{revision}'.", hint=hint)
        self.revision = revision
        self.near = near


class KeyNotFoundError(NotFoundError):
    """A storage key does not exist; layers above turn this into what it means there."""

    def __init__(self, key: str) -> None:
        super().__init__(f"There is nothing stored under '{key}'.")
        self.key = key


class CorruptionError(ErestoreError):
    """Stored bytes are not what was written (exit 4)."""

    exit_code = 4


class MissingObjectError(CorruptionError):
    """An object that others refer to is gone."""

    def __init__(self, oid: str, kind: str | None = None) -> None:
        super().__init__(
            f"The {kind or 'object'} {oid[:12]} is referred to but missing from the store.",
            hint="`erestore fsck` lists everything that is affected.",
        )
        self.oid = oid
        self.kind = kind


class ConflictError(ErestoreError):
    """Two things that cannot both hold (exit 5)."""

    exit_code = 5


class RefConflictError(ConflictError):
    """A ref was moved by another writer between reading and writing it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"'{name}' was moved by another writer at the same time; nothing of theirs was changed.",
            hint="Look at `erestore log`, then repeat the command.",
        )
        self.name = name


class ProtectedBranchError(ConflictError):
    """A branch that the setting ``branch.protected`` names would be deleted or would lose versions from sight."""

    def __init__(self, name: str, *, deleted: bool) -> None:
        what = "is not deleted or renamed" if deleted else "only goes forward, and this does not continue it"
        super().__init__(
            f"'{name}' is protected: it {what}.",
            hint="`erestore config branch.protected` shows the list; set it without this branch, or --unset it, to lift that.",
        )
        self.name = name


class Conflict(NamedTuple):
    """One reason why variants cannot be combined as they are.

    Attributes
    ----------
    kind : str
        ``base``, ``tensor``, ``rows``, ``integers``, ``quantised``, ``labels``, ``vocabulary``, ``file`` or ``layout``.
    subject : str
        The tensor concerned, by its key, or the path of a file; empty for ``base`` and ``layout``.
    reason : str
    operands : tuple of str
        Names of the variants concerned.
    """

    kind: str
    subject: str
    reason: str
    operands: tuple[str, ...]


class CombinationError(ConflictError):
    """Variants that cannot be combined as they are; ``conflicts`` says why, one by one."""

    conflicts: tuple[Conflict, ...] = ()
    CHOOSE: ClassVar[str] = (
        "Choose with --ours (the first one's that has it), --theirs (the last one's) or --drop (leave them out)."
    )

    def __init__(self, message: str, conflicts: tuple[Conflict, ...], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or self.CHOOSE)
        self.conflicts = conflicts


class TargetExistsError(ConflictError):
    """A place that would be written already holds something."""


class RemoteError(ErestoreError):
    """A remote or the network failed (exit 6)."""

    exit_code = 6


class UnsupportedFormatError(ErestoreError):
    """The store needs a feature that this version lacks (exit 7)."""

    exit_code = 7


class UnsafeRemoteError(ErestoreError):
    """The remote ignores exclusive creation, so concurrent writers would lose data (exit 8)."""

    exit_code = 8


class CheckpointError(ErestoreError):
    """The user's checkpoint cannot be read or does not fit (exit 9)."""

    exit_code = 9


class AccessError(ErestoreError):
    """No space left, or no permission (exit 10)."""

    exit_code = 10


def similar_names(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return up to three of `names` that `name` may be a slip for, most alike first: for hints."""
    names = list(names)
    swapped = [each for each in names if sorted(each) == sorted(name)]  # of two letters, difflib calls them half alike
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return tuple(dict.fromkeys([*swapped, *alike]))[:3]
