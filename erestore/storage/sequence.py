"""In which order entries of different logs were written, without asking any clock.

Within one log numbers tell. Across logs one more number does: how many entries the writer saw in all logs together
just before it wrote. Whoever comes later has seen more. Entries carry that count in the id of their writer, which is a UUID of
version 8 (RFC 9562): its last 48 bits are the count, the rest is random. The newest entry of a log is never removed, so
that the count, a sum of highest numbers, never falls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from erestore.storage.abc import Entry

_VERSION_8 = re.compile(r"[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{3}(?P<count>[0-9a-f]{12})")
_ID = re.compile(r"[0-9a-f]{32}")
_RANDOM = 12  # digits at the start of an id that a count leaves alone


def count_entries(listed: Iterable[Entry]) -> int:
    """Return how many entries logs have had, given a listing of them."""
    highest: dict[str, int] = {}
    for entry in listed:
        log, _, number = entry.key.rpartition("/")
        if number.isdigit():
            highest[log] = max(highest.get(log, 0), int(number))
    return sum(highest.values())


def with_count(writer: str, count: int) -> str:
    """Return the id of a writer with a count in it; ids of another form stay as they are."""
    if not _ID.fullmatch(writer):
        return writer
    variant = "89ab"[int(writer[16], 16) % 4]
    return f"{writer[:12]}8{writer[13:16]}{variant}{writer[17:20]}{count % 16**12:012x}"


def count_of(writer: str) -> int | None:
    """Return the count in the id of a writer; None where an older version wrote it."""
    match = _VERSION_8.fullmatch(writer)
    return int(match["count"], 16) if match else None


def is_same_writer(first: str, second: str) -> bool:
    """Return whether two ids name one writer, whatever the counts in them."""
    return len(first) == len(second) == 32 and first[:_RANDOM] == second[:_RANDOM]
