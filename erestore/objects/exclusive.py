"""Objects reachable from exactly one ref: free once it moves and its reflog entries expire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from erestore.objects.references import Reference, closure, walk
from erestore.storage.objects import ObjectStore


@dataclass
class Reach:
    """What names lead to.

    Attributes
    ----------
    objects : ObjectStore
    tips : Mapping[str, str]
        The commit of every name.
    """

    objects: ObjectStore
    tips: Mapping[str, str]

    @cached_property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """What every object refers to."""
        roots = [Reference("commit", oid) for oid in dict.fromkeys(self.tips.values())]
        return {
            visit.reference.oid: tuple(reference.oid for reference in visit.needs)
            for visit in walk(self.objects, roots, set())
        }

    @cached_property
    def held_by(self) -> dict[str, list[str]]:
        """Names that lead to each object, its own commit's by way of its parents alone counted too."""
        names: dict[str, list[str]] = {}
        for name, oid in self.tips.items():
            for reached in closure([oid], self.needs):
                names.setdefault(reached, []).append(name)
        return names

    def exclusive(self, name: str, parents: Iterable[str]) -> set[str]:
        """Return the objects reachable from exactly one ref, other than by way of its commit's parents."""
        exclusive = {oid for oid in closure([self.tips[name]], self.needs) if self.held_by[oid] == [name]}
        return exclusive - closure(parents, self.needs)

    def others(self, oid: str, name: str) -> list[str]:
        """Return the names, but for one, that lead to an object."""
        return [other for other in self.held_by.get(oid, ()) if other != name]
