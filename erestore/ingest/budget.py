"""What a commit takes besides its files, before it is made: a budget is for all of it.

Nothing in the estimate depends on when and where a commit is made, so that the same files at the same budget give the same
residual: digests of constants stand for those of objects, as long and as random.
"""

from __future__ import annotations

from collections.abc import Mapping

from blake3 import blake3

from erestore.encoding.quality import Outcome, Quality, quality_record
from erestore.records import Commit
from erestore.storage.canonical import dump_canonical
from erestore.storage.frames import encode_record

_ENTRY_BYTES = 352
"""What an entry of a ref's log takes, but for its message; with some room for records that compress less than expected."""
_TIME = 1_764_032_723_419_857
"""Microseconds since 1970: any time of these years."""


def record_bytes(
    quality: Quality,
    used: Mapping[str, str],
    size: int,
    *,
    edge: str,
    author: str,
    message: str,
    metrics: Mapping[str, str],
) -> int:
    """Return about what a commit's record and the entry of its branch take, and not less.

    Parameters
    ----------
    quality : Quality
    used : Mapping[str, str]
        What the record of the quality holds besides.
    size : int
        Of the checkpoint in bytes.
    edge, author, message : str
    metrics : Mapping[str, str]
    """
    likely = Commit(
        manifest=blake3(b"manifest").hexdigest(),
        parents=(blake3(b"parent").hexdigest(),),
        edge=edge,
        author=author,
        time=_TIME,
        message=message,
        own=(blake3(b"residual").hexdigest(),),
        metrics=dict(metrics),
        quality=quality_record(quality, Outcome(1 / 3, 1 / 7, 1 / 11, 1 / 13, dropped=[""] * 1000), exact=False)
        | {**used, "original": blake3(b"original").hexdigest()},
        original_bytes=size,
        stored_bytes=size,
    )
    record = len(encode_record("commit", dump_canonical(likely.to_record())))
    return record + _ENTRY_BYTES + len(dump_canonical(message.partition("\n")[0]))
