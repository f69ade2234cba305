"""Which names a file beside the weights may have.

The same rule guards both directions: a user's directory is checked when it is read, and a store's record again before
anything is written, so that a hostile store cannot write outside the target, over another file, or under a name that
some system treats specially.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from erestore.errors import CheckpointError

LONGEST_NAME = 200
DEEPEST_NAME = 8

_COMPONENT = re.compile(r"[A-Za-z0-9_\-+=()\[\]@,](?:[A-Za-z0-9._\-+ =()\[\]@,]*[A-Za-z0-9_\-+=()\[\]@,])?", re.ASCII)
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.ASCII | re.IGNORECASE)
_HINT = (
    "Rename it: ASCII letters, digits and . _ - + = ( ) [ ] @ , and inner spaces, not starting or ending with a dot."
)


def check_side_name(name: str) -> str:
    """Return `name` if it is a relative POSIX path that is safe to write anywhere.

    At most 8 components and 200 characters; each component of ASCII letters, digits and ``. _ - + = ( ) [ ] @ ,`` and
    inner spaces, not starting with a dot or a space nor ending with one, and none of the device names of Windows.

    Raises
    ------
    CheckpointError
        If it is anything else.
    """
    parts = name.split("/")
    if len(name) > LONGEST_NAME or len(parts) > DEEPEST_NAME:
        raise CheckpointError(
            f"The file name '{name[:60]}...' is too long or too deep to be kept.",
            hint=f"At most {LONGEST_NAME} characters and {DEEPEST_NAME} levels are kept.",
        )
    if not all(_COMPONENT.fullmatch(part) and not _RESERVED.fullmatch(part) for part in parts):
        raise CheckpointError(f"The file name {name!r} cannot be kept.", hint=_HINT)
    return name


def check_side_names(names: Iterable[str]) -> None:
    """Check names that are to live in one directory, weight files included.

    Raises
    ------
    CheckpointError
        If one is refused by :func:`check_side_name`, two differ in case only, or one is a folder of another.
    """
    by_folded: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        folded = check_side_name(name).casefold()
        if folded in by_folded:
            raise CheckpointError(
                f"The file names '{by_folded[folded]}' and '{name}' are the same where case does not count.",
                hint="Rename one of them.",
            )
        by_folded[folded] = name
        parts = folded.split("/")
        original = name.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(original[:depth])
            other = folders.setdefault("/".join(parts[:depth]), folder)
            if other != folder:
                raise CheckpointError(
                    f"The folders '{other}' and '{folder}' are the same where case does not count.",
                    hint="Rename one of them.",
                )
    for folded, name in by_folded.items():
        if folded in folders:
            raise CheckpointError(f"'{name}' is both a file and a folder.", hint="Rename one of them.")
