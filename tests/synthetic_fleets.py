"""Stores of many variants, made of records and of tiny residuals that no training made: for pages over whole fleets.

Everything is what `commit` and `merge` would write, but for the numbers: factors are random, errors and metrics are drawn.
What variants of one family have in common is that their residuals share sections.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.squared_errors import Errors
from erestore.operation import Operation
from erestore.records import Commit, Manifest, Term
from erestore.records.manifest import normal_terms
from erestore.residual.codecs import lowrank2
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.codecs.lowrank import Codes, cut_groups, largest_codes
from erestore.storage.segments import PutResult

START = 1_700_000_000_000_000
"""Time of the first commit, in microseconds; every other is a minute later."""
SIDE, RANK = 16, 2
KINDS = ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down")
FAMILIES = ("mnli", "sst2", "qqp", "squad", "news", "code", "law", "chat")
POOL = 6
"""Sections that the variants of a family draw from, for each tensor."""


@dataclass
class Fleet:
    """A store that is being filled.

    Attributes
    ----------
    store : Store
    tensors : int
        Of every variant.
    random : random.Random
    """

    store: Store
    tensors: int
    random: random.Random = field(default_factory=lambda: random.Random(5))
    _made: int = 0

    def keys(self) -> list[str]:
        """Name the tensors."""
        return [f"layer.{place // len(KINDS)}.{KINDS[place % len(KINDS)]}.weight" for place in range(self.tensors)]

    def fill(self, directory: Path, variants: int, base: str = "base") -> None:
        """Import a base and commit variants: most on it, some on others, second versions, merges, picks."""
        noise = torch.Generator().manual_seed(len(base))
        save_file(
            {key: torch.randn(SIDE, SIDE, generator=noise) for key in self.keys()}, directory / f"{base}.safetensors"
        )
        root = self.store.import_base(directory / f"{base}.safetensors", name=base).commit
        held = self.store.manifest_of(root)
        pools = {family: self._pool(family) for family in FAMILIES}
        names: list[str] = []
        for number in range(variants):
            family = FAMILIES[number % len(FAMILIES)]
            kind = self.random.choices(("base", "child", "version", "merge", "pick"), (60, 18, 10, 10, 2))[0]
            near = [name for name in names if family in name]
            name = f"{'' if base == 'base' else base + '/'}{family}-{number:04d}"
            if kind == "base" or len(near) < 2:
                self._encode(name, root, held, pools[family], "adapted")
            elif kind == "merge":
                self._combine(name, self.random.sample(near, min(len(near), self.random.randint(2, 4))), "merged")
            elif kind == "pick":
                self._combine(name, self.random.sample(near, 2), "picked")
            else:
                parent = self.store.resolve(self.random.choice(near))
                self._encode(name, parent, self.store.manifest_of(parent), pools[family], "adapted")
            if kind == "version":
                first = self.store.resolve(name)
                self._encode(name, first, self.store.manifest_of(first), pools[family], "versioned")
            names.append(name)

    def _encode(self, name: str, parent: str, manifest: Manifest, pool: list[list[EncodedSection]], edge: str) -> None:
        error = self.random.uniform(0.002, 0.01)
        before = self.store.objects
        with ResidualWriter(before, manifest.base) as writer:
            for place, key in sorted(enumerate(self.keys()), key=lambda each: each[1]):
                norm = self.random.uniform(0.5, 2)
                section = self.random.choice(pool[place])
                writer.add(key, (SIDE, SIDE), (section,), Errors(error * norm, error * norm, norm))
            written = writer.finish()
        terms = normal_terms((*manifest.terms, Term(written.oid, Fraction(1))))
        digests = {key: f"{self.random.getrandbits(128):032x}" for key in self.keys()}
        stored = self._manifest(Manifest(manifest.base, terms, manifest.layout, digests=digests))
        self.commit(
            name,
            stored.oid,
            (parent,),
            edge,
            written.added_bytes + stored.added_bytes,
            own=(written.oid,),
            quality={"codec": "lowrank", "exact": "no", "max_error": "0.01", "relative_error": repr(error)},
            metrics={"accuracy": f"{self.random.uniform(0.6, 0.95):.3f}", "loss": f"{self.random.uniform(0.1, 1):.3f}"},
        )

    def _combine(self, name: str, operands: list[str], edge: str) -> None:
        manifests = [self.store.manifest_of(each) for each in operands]
        share = Fraction(1, len(operands))
        terms = normal_terms(tuple(Term(oid, share * weight) for each in manifests for oid, weight in each.terms))
        stored = self._manifest(Manifest(manifests[0].base, terms, manifests[0].layout))
        parents = tuple(map(self.store.resolve, operands))
        used = zip(operands, parents, strict=True)
        recipe = {
            "strategy": "average",
            "operands": [{"name": each, "commit": oid, "weight": str(share)} for each, oid in used],
            "options": {},
            "choose": None,
        }
        self.commit(name, stored.oid, parents, edge, stored.added_bytes, recipe=recipe)

    def _manifest(self, manifest: Manifest) -> PutResult:
        return self.store.objects.put_record("manifest", manifest.to_record())

    def commit(
        self, name: str, manifest: str, parents: tuple[str, ...], edge: str, stored: int, **fields: object
    ) -> None:
        """Record a commit on the branch `name`; fields beside the usual are taken as they are."""
        self._made += 1
        operation = Operation(f"{self._made:032x}", "0" * 32, "tester", START + 60_000_000 * self._made)
        entry = self.store.refs.read(name)
        fields.setdefault("message", f"{edge} for {name.rpartition('/')[2].partition('-')[0]}, run {self._made}")
        commit = Commit(
            manifest=manifest,
            parents=parents,
            edge=edge,
            author=operation.author,
            time=operation.time,
            original_bytes=4 * SIDE * SIDE * self.tensors,
            stored_bytes=stored,
            **fields,
        )
        self.store.record(commit, name, operation, expected=entry.number if entry else 0)

    def _pool(self, family: str) -> list[list[EncodedSection]]:
        noise = np.random.default_rng(FAMILIES.index(family))
        return [[_section(noise) for _ in range(POOL)] for _ in range(self.tensors)]


def _section(noise: np.random.Generator) -> EncodedSection:
    sides = [np.rint(40 * noise.standard_normal((SIDE, RANK))).astype(np.int16) for _ in range(2)]
    products = [int(one * two) for one, two in zip(*map(largest_codes, sides), strict=True)]
    groups, shifts = cut_groups([1] * RANK, [-16] * RANK, products)
    return lowrank2.encode(Codes(*sides, np.ones(RANK, np.int64), np.array(shifts, np.int64), groups))


def make_fleet(directory: Path, variants: Sequence[int], tensors: int) -> Fleet:
    """Make a store with so many variants on each of some bases, ``base``, ``base-2``, ..."""
    directory.mkdir(parents=True, exist_ok=True)
    fleet = Fleet(Store.init(directory / "store"), tensors)
    for number, count in enumerate(variants, 1):
        fleet.fill(directory, count, "base" if number == 1 else f"base-{number}")
    return fleet
