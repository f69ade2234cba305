"""``unlock``: remove the leases of operations that were killed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from erestore.errors import AccessError
from erestore.storage.abc import Storage
from erestore.storage.lease_records import EXPIRES_SECONDS, SKEW_SECONDS, LeaseRecord, read_leases
from erestore.storage.leases import storage_time
from erestore.store import Store


@dataclass(frozen=True)
class HeldLease:
    """One lease; the fields are those of its JSON.

    Attributes
    ----------
    name : str
    kind : str
        ``collector`` for garbage collection, else ``writer``.
    holder : str
        User, machine and process; empty where that is not known.
    renewed : datetime
        UTC, by the storage's clock.
    reason : str
        Why it is dead; empty where its holder may be at work.
    """

    name: str
    kind: str
    holder: str
    renewed: datetime
    reason: str


@dataclass(frozen=True)
class UnlockResult:
    """What ``unlock`` did, or would do in a dry run; the fields are those of its JSON."""

    removed: tuple[HeldLease, ...]
    kept: tuple[HeldLease, ...]
    dry_run: bool = False


def unlock(store: Store, *, everything: bool = False, dry_run: bool = False) -> UnlockResult:
    """Remove the leases of operations that are known to be dead.

    Known to be dead is what has expired, ended, or comes from the future, a copied file, or a process of this machine
    that runs no more.

    Parameters
    ----------
    store : Store
    everything : bool
        Remove the others as well. An operation whose lease goes while it runs stops, and says so, before it makes
        anything reachable or deletes anything more.
    dry_run : bool
        Tell what would be removed, and remove nothing.

    Raises
    ------
    AccessError
        If the credentials may not delete.
    """
    now = _now(store.storage, dry_run=dry_run)
    removed, left = [], []
    for record in read_leases(store.storage).values():
        lease = _describe(store.storage, record, now)
        if not (lease.reason or everything):
            left.append(lease)
            continue
        removed.append(lease)
        for key in () if dry_run else record.keys:
            store.storage.delete(key)
    return UnlockResult(tuple(removed), tuple(left), dry_run)


def _now(storage: Storage, *, dry_run: bool) -> float:
    if not dry_run:
        try:
            with storage.spending_reserve():
                return storage_time(storage)
        except AccessError:  # a full disk: removing leases is what may help
            pass
    return time.time()


def _describe(storage: Storage, record: LeaseRecord, now: float) -> HeldLease:
    content = record.read(storage)
    reason = ""
    if record.is_released:
        reason = "it has ended"
    elif now - record.modified >= EXPIRES_SECONDS:
        reason = "it has expired"
    elif record.modified - now > SKEW_SECONDS:
        reason = "its time is in the future"
    elif content.is_copied(record, now):
        reason = "it was copied here"
    elif content.holder and content.holder.is_gone:
        reason = "its process has ended"
    holder = str(content.holder or "")
    return HeldLease(record.name, record.kind, holder, datetime.fromtimestamp(record.modified, UTC), reason)
