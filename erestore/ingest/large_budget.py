"""Budgets that have room for every bit: nothing lossy is kept that takes more than the exact value does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from erestore.encoding.quality import Quality
from erestore.ingest.variant_writer import StoredVariant
from erestore.storage.abc import Storage
from erestore.storage.local import LocalStorage
from erestore.storage.objects import ObjectStore
from erestore.storage.overlay import Overlay

_NEARLY_ALL = 1e-3
"""Relative error above which an exact remainder has not been seen to be smaller; the exact value is tried below it."""


class WithinBudget(NamedTuple):
    """What was stored, and whether that is every bit, in fewer bytes than the budget would have bought without."""

    stored: StoredVariant
    is_exact: bool


def write_within_budget(
    storage: Storage, quality: Quality, write: Callable[[ObjectStore, Quality], StoredVariant], *, may_be_exact: bool
) -> WithinBudget:
    """Write a variant within the budget of `quality`, exact where that is smaller.

    Parameters
    ----------
    storage : Storage
        Nothing reaches it but what is kept.
    quality : Quality
    write : Callable
        Encodes at a quality.
    may_be_exact : bool
        Whether an exact remainder is possible.
    """
    with tempfile.TemporaryDirectory(prefix="erestore-budget-") as directory:
        overlay = Overlay(storage, LocalStorage(Path(directory) / "lossy"))
        stored, is_exact = write(ObjectStore(overlay), quality), False
        if may_be_exact and stored.outcome.relative_error <= _NEARLY_ALL:
            exact = Overlay(storage, LocalStorage(Path(directory) / "exact"))
            every_bit = write(ObjectStore(exact), replace(quality, budget=None, exact=True))
            if every_bit.added_bytes <= stored.added_bytes:
                overlay, stored, is_exact = exact, every_bit, True
        overlay.publish()
    return WithinBudget(stored, is_exact)
