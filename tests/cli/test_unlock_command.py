"""unlock on the command line."""

from __future__ import annotations

from commands import Here

from erestore.storage.leases import Lease
from erestore.storage.local import LocalStorage


def test_unlock_names_what_it_removes_and_what_it_keeps(here: Here) -> None:
    assert "No operation holds a lease" in here.run("unlock").out
    lease = Lease(LocalStorage(here.directory / ".erestore"), "collector", "gc")
    lease.renew()
    refused = here.run("tag", "v2", "ft")
    assert (refused.code, "erestore unlock" in refused.err) == (5, True)
    kept = here.run("unlock")
    assert kept.out.startswith("Kept the lease of garbage collection (")
    assert "erestore unlock --all" in kept.err
    assert here.run("unlock", "--all", "--dry-run").out.startswith("Would remove the lease")
    assert [held["kind"] for held in here.json("unlock", "--all")["removed"]] == ["collector"]
    assert here.run("tag", "v2", "ft").code == 0
