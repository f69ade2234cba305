"""How the folders of refs are spelled where a file system does not tell capitals from small letters.

The folder of a name is the name, quoted. Where a folder whose name differs in case only is there already, and the file system
takes the two for one, some letters are quoted as well: the capitals, or the first letter where there are none. No two names
come to share a folder by that, and whoever lists folders and unquotes them reads the names. A store with such a folder has
the feature :data:`FEATURE`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import quote

FEATURE = "spelled-names"
FEATURE_KEY = f"features/read/{FEATURE}"


def plain(name: str) -> str:
    """Return the folder of a name, as it is in all stores without the feature."""
    return quote(name, safe="")


def spelled(name: str) -> str:
    """Return the folder of a name that would differ from another's in case only."""
    # Of what a name may hold, only the slash is quoted in a plain folder.
    has_capitals = re.search("[A-Z]", name) is not None
    quoted = re.sub("[A-Z]", _quoted, name) if has_capitals else re.sub("[a-z]", _quoted, name, count=1)
    return quoted.replace("/", "%2F")


def _quoted(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def choose(name: str, folders: Collection[str], *, ignores_case: bool) -> str:
    """Return the folder that is, or is to be, a name's.

    Parameters
    ----------
    name : str
    folders : collection of str
        As they are spelled in the storage.
    ignores_case : bool
        Whether the storage takes folders for one that differ in case only.
    """
    if plain(name) in folders:
        return plain(name)
    if spelled(name) in folders:
        return spelled(name)
    is_taken = ignores_case and plain(name).casefold() in {folder.casefold() for folder in folders}
    return spelled(name) if is_taken else plain(name)
