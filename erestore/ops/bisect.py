"""``bisect``: the commit of a lineage at which a test stops passing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from erestore.errors import UsageError
from erestore.history.revision import require_commit
from erestore.store import Store
from erestore.variant.state_dict import StateDict
from erestore.variant.variant import Variant


class Probe(NamedTuple):
    """One run of the test: the commit, and whether it passed."""

    commit: str
    passed: bool


@dataclass(frozen=True)
class BisectResult:
    """What ``bisect`` found; the fields are those of its JSON.

    Attributes
    ----------
    first_bad, last_good : str
        Commits next to each other.
    message : str
        Of the first bad one.
    probes : tuple of Probe
    """

    first_bad: str
    last_good: str
    message: str
    probes: tuple[Probe, ...]


def bisect(
    store: Store,
    good: str,
    bad: str,
    passes: Callable[[StateDict], bool],
    *,
    tried: Callable[[Probe], None] = lambda _: None,
) -> BisectResult:
    """Find the first commit, on the way from a good one to a bad one along first parents, that does not pass.

    Parameters
    ----------
    store : Store
    good, bad : str
        Revisions; the first has to be an ancestor of the second along first parents. Both are tested.
    passes : Callable
    tried : Callable
        Told of every run.

    Raises
    ------
    UsageError
        If `good` is no such ancestor, does not pass, or `bad` does.
    """
    start, end = require_commit(store, good, "The good end"), require_commit(store, bad, "The bad end")
    line = [end]
    while line[-1] != start:
        parents = store.commit_record(line[-1]).parents
        if not parents:
            raise UsageError(
                f"'{good}' is not an ancestor of '{bad}' along first parents.",
                hint="`erestore log --graph` shows both.",
            )
        line.append(parents[0])
    line.reverse()
    probes: list[Probe] = []

    def passed(index: int) -> bool:
        variant = Variant.open(store.objects, store.commit_record(line[index]).manifest)
        probes.append(Probe(line[index], bool(passes(StateDict(variant)))))
        tried(probes[-1])
        return probes[-1].passed

    if not passed(0):
        raise UsageError(f"'{good}' itself does not pass.", hint="Name a commit that does.")
    if len(line) < 2 or passed(len(line) - 1):
        raise UsageError(f"'{bad}' passes, so there is nothing to bisect.", hint="Name a commit that does not pass.")
    low, high = 0, len(line) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passed(middle) else (low, middle)
    return BisectResult(line[high], line[low], store.commit_record(line[high]).message, tuple(probes))
