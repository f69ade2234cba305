"""A fine-tune to a manifest: residual, whole tensors, added rows, digests and the exact remainder.

Write order: residual, whole tensors, layout (with its side files), patch, manifest. Everything that is recorded about
the result (digests, errors, exact remainders) is computed from what was written, decoded as a reader decodes it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial

from blake3 import blake3

from erestore.arrays import Array, as_array, raw_bytes
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.roles import Role, roles_of
from erestore.encoding.quality import Outcome, Quality
from erestore.encoding.residual_encoder import CheckpointDeltas, Encoder
from erestore.encoding.source import DeltaSource
from erestore.encoding.step_search import SizeBudget
from erestore.encoding.target import Target, divide
from erestore.errors import UsageError
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.ingest.base_writer import original_bytes
from erestore.ingest.gate_runner import Trials
from erestore.ingest.layout import store_layout
from erestore.objects.calibration import Calibration
from erestore.objects.patch import DEEPEST, EncodedRemainder, Patch, PatchWriter, cost
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.tensors import VALUE_DIGEST_BYTES, TensorWriter, content_digest, value_digest
from erestore.progress import Progress
from erestore.records import Manifest, Part, TensorRef, Term, WholeTensor, normal_terms
from erestore.residual.evenness import OWN_CHANGES, References
from erestore.storage.canonical import dump_canonical
from erestore.storage.frames import encode_record
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult
from erestore.variant.variant import Variant

Parts = dict[str, tuple[Part, ...]]


@dataclass(frozen=True)
class StoredVariant:
    """What was written for a fine-tune.

    Attributes
    ----------
    manifest_oid : str
    manifest : Manifest
    residuals : tuple of str
        Those that were written.
    added_bytes : int
    outcome : Outcome
    """

    manifest_oid: str
    manifest: Manifest
    residuals: tuple[str, ...]
    added_bytes: int
    outcome: Outcome


@dataclass
class _Frame:
    """What surrounds the residual in a variant: targets that are encoded, and what was written of all else."""

    targets: list[Target] = field(default_factory=list)
    dense: Parts = field(default_factory=dict)
    rows: Parts = field(default_factory=dict)
    layout: str = ""
    added: int = 0


@dataclass
class VariantWriter:
    """Stores one checkpoint as a variant of a parent.

    Attributes
    ----------
    objects : ObjectStore
    checkpoint : Checkpoint
    keys : Mapping[str, str]
        Manifest key of every own name.
    parent : Variant
        Encoded against its linear value.
    parent_oid : str
        Oid of the parent's manifest.
    quality : Quality
    progress : Progress
    trials : Trials, optional
        For a gate; then `objects` are over a storage that candidates may be written to and deleted from.
    calibration : Calibration or None
        See :class:`erestore.encoding.residual_encoder.Encoder`.
    layout : str, optional
        Oid of a layout that is stored already and is the checkpoint's.
    source : DeltaSource, optional
        What is encoded of the checkpoint, if that is known better than by reading its tensors.
    references : References
        See :class:`erestore.encoding.residual_encoder.Encoder`.
    """

    objects: ObjectStore
    checkpoint: Checkpoint
    keys: Mapping[str, str]
    parent: Variant
    parent_oid: str
    quality: Quality
    progress: Progress
    trials: Trials | None = None
    calibration: Calibration | None = None
    layout: str | None = None
    source: DeltaSource | None = None
    references: References = OWN_CHANGES

    @cached_property
    def roles(self) -> Mapping[str, Role]:
        """What the checkpoint's tensors are for."""
        return roles_of(self.checkpoint.tensors, self.checkpoint.quantisation)

    def write(self) -> StoredVariant:
        """Write everything but the commit."""
        if (self.quality.exact or self.quality.exact_only) and not self.parent.is_reproducible:
            raise UsageError(
                "An earlier commit of this line was encoded with ere, which decodes differently on different machines, "
                "so it cannot have an exact remainder.",
                hint="Commit with --exact from the base, or from a parent that was encoded with the default codec.",
            )
        outcome = Outcome()
        targets, whole_names = divide(self.checkpoint, self.keys, self.parent.base)
        frame = _Frame()

        def prepare(refused: list[Target]) -> SizeBudget | None:
            """Write what is kept as it is, before the residual: a budget is for the two together."""
            left = {target.key for target in refused}
            frame.targets = [target for target in targets if target.key not in left]
            names = [*whole_names, *(target.name for target in refused)]
            frame.dense, frame.rows, frame.added = self._write_whole(names, frame.targets, outcome)
            if self.layout is not None:
                frame.layout = self.layout
            else:
                layout = store_layout(self.objects, self.checkpoint, self.keys)
                frame.layout, frame.added = layout.oid, frame.added + layout.added_bytes
            budget = self.quality.budget_bytes(original_bytes(self.checkpoint))
            if budget is None:
                return None
            if self._residual_bytes(budget, frame, ()) < 0:
                raise UsageError(
                    "The budget is too small for this checkpoint: tensors and files that are kept as they are (new heads, "
                    "side files, records) use all of it.",
                    hint="Give a larger --budget.",
                )
            return partial(self._residual_bytes, budget, frame)

        accept = None if self.trials is None else partial(self._passes_gate, self.trials, frame, {})
        source = self.source or CheckpointDeltas(self.checkpoint, self.parent)
        base = self.parent.manifest.base
        encoder = Encoder(
            self.objects, source, base, self.quality, self.progress, accept, self.calibration, self.references
        )
        residual = encoder.run(targets, outcome, prepare)
        manifest, patch_bytes = self._finish(self._manifest(frame, residual), frame.targets, outcome)
        record = self.objects.put_record("manifest", manifest.to_record())
        added = (residual.added_bytes if residual else 0) + frame.added + patch_bytes + record.added_bytes
        residuals = (residual.oid,) if residual else ()
        return StoredVariant(record.oid, manifest, residuals, added, outcome)

    def _manifest(self, frame: _Frame, residual: PutResult | None) -> Manifest:
        terms = self.parent.manifest.terms
        if residual:
            terms = normal_terms((*terms, Term(residual.oid, Fraction(1))))
        return Manifest(self.parent.manifest.base, terms, frame.layout, frame.dense, frame.rows)

    def _passes_gate(
        self, trials: Trials, frame: _Frame, answers: dict[str, bool], writer: ResidualWriter, error: float
    ) -> bool:
        """Ask the gate about the variant that a residual would make, once for each; the residual does not stay."""
        residual = writer.finish()
        try:
            if residual.oid not in answers:
                variant = Variant(self.objects, self._manifest(frame, residual))
                answers[residual.oid] = trials.passes(variant, frame.added + writer.size, error)
            return answers[residual.oid]
        finally:
            self.objects.delete(residual.oid)

    def _residual_bytes(self, budget: int, frame: _Frame, keys: Collection[str]) -> int:
        """Return what a residual with sections for `keys` may take, after all else that the files add."""
        # Digests of the keys stand for those of values: as long, as random, and the same on every call.
        digests = {
            key: blake3(key.encode()).hexdigest(length=VALUE_DIGEST_BYTES)
            for key in {*keys, *self.parent.manifest.digests}
        }
        term = Term(blake3(b"residual").hexdigest(), Fraction(1))
        terms = normal_terms((*self.parent.manifest.terms, term))
        record = Manifest(self.parent.manifest.base, terms, frame.layout, frame.dense, frame.rows, digests=digests)
        manifest = len(encode_record("manifest", dump_canonical(record.to_record())))
        return budget - frame.added - manifest

    def _write_whole(self, names: list[str], targets: list[Target], outcome: Outcome) -> tuple[Parts, Parts, int]:
        """Store tensors that are kept whole and added rows, reusing what the parent already holds."""
        dense: Parts = {}
        rows: Parts = {}
        fresh: list[tuple[Parts, str, WholeTensor]] = []
        manifest = self.parent.manifest
        touched = {key for _, residual in self.parent.residuals for key in residual.tensors}
        with TensorWriter(self.objects, align=1) as writer:

            def keep(
                destination: Parts,
                former: Mapping[str, tuple[Part, ...]],
                key: str,
                dtype: str,
                shape: tuple[int, ...],
                content: memoryview,
            ) -> None:
                digest = content_digest(dtype, shape, content)
                parts = former.get(key, ())
                if len(parts) == 1 and parts[0].coefficient == 1 and parts[0].tensor.digest == digest:
                    destination[key] = parts
                else:
                    data = TensorRef("", *writer.add(content, dtype))
                    fresh.append((destination, key, WholeTensor(dtype, shape, digest, data)))

            for name in names:
                info, key = self.checkpoint.tensors[name], self.keys[name]
                content = raw_bytes(as_array(self.checkpoint.read(name)))
                base = self.parent.base.get(key)
                is_base = base is not None and base.digest == content_digest(info.dtype, info.shape, content)
                if is_base and key not in touched:  # else the terms would change it
                    outcome.count("unchanged")
                    continue
                outcome.count("codes" if self.roles[name] is Role.QUANTISED and base is not None else "whole")
                outcome.whole.append(name)
                keep(dense, manifest.dense, key, info.dtype, info.shape, content)
            for target in targets:
                if target.has_added_rows:
                    outcome.count("added rows")
                    shape = (target.info.shape[0] - target.shared, *target.info.shape[1:])
                    content = raw_bytes(as_array(self.checkpoint.rows_from(target.name, target.shared)))
                    keep(rows, manifest.rows, target.key, target.info.dtype, shape, content)
            added, oid = 0, ""
            if fresh:
                stored = writer.finish()
                added, oid = stored.added_bytes, stored.oid
        for destination, key, tensor in fresh:
            destination[key] = (Part(Fraction(1), replace(tensor, data=tensor.data._replace(oid=oid))),)
        return dense, rows, added

    def _finish(self, manifest: Manifest, targets: list[Target], outcome: Outcome) -> tuple[Manifest, int]:
        """Decode what was written; record digests, and the exact remainder if it is wanted."""
        variant = Variant(self.objects, manifest)
        touched = {key for _, residual in variant.residuals for key in residual.tensors}
        exact = self.quality.exact or self.quality.exact_only
        former = self._exact_parent() if exact else None
        digests: dict[str, str] = {}

        def look(target: Target) -> tuple[str, EncodedRemainder | None]:
            wanted = variant.is_reproducible and target.key in touched
            if not exact:  # block by block: nothing of the tensor's size
                digest = variant.linear_digest(target.key, target.info.dtype, target.shared) if wanted else ""
                return digest, None
            value = variant.rounded(target.key, target.info.dtype, target.info.shape)
            digest = value_digest(value.reshape(-1)[: math.prod(target.shape)]) if wanted else ""
            return digest, self._remainder(variant, former, target, value)

        added = 0
        with tensor_threads() as executor, PatchWriter(self.objects) as patch:
            results = bounded_map(executor, look, targets, in_flight=worker_count())
            for number, (target, (digest, remainder)) in enumerate(zip(targets, results, strict=True), 1):
                if digest:
                    digests[target.key] = digest
                if remainder is not None:
                    patch.add(target.key, remainder)
                    outcome.count("patch")
                self.progress("verifying", number, len(targets))
            if not patch.is_empty:
                stored = patch.finish()
                added, manifest = stored.added_bytes, replace(manifest, patch=stored.oid)
        return replace(manifest, digests=digests), added

    def _remainder(self, variant: Variant, former: str | None, target: Target, value: Array) -> EncodedRemainder | None:
        """Encode what one tensor lacks, from the cheapest prediction; None where the value is exact already."""
        original = as_array(self.checkpoint.read(target.name))
        if raw_bytes(original) == raw_bytes(value):
            return None
        key, dtype, shape = target.key, target.info.dtype, target.info.shape
        choices: list[tuple[tuple[str, ...], Array]] = [(("linear",), value)]
        if any(residual.tensors.get(key) for _, residual in variant.residuals):
            choices.append((("base",), variant.predicted(("base",), key, dtype, shape)))
        if former is not None:
            entry = next((t for t in self.parent.layout.tensors.values() if t.key == key), None)
            if entry is not None and (entry.dtype, entry.shape) == (dtype, shape):
                choices.append((("stored", former), self.parent.stored(key, dtype, shape)))
        predictor, predicted = (
            min(choices, key=lambda choice: cost(original, choice[1])) if len(choices) > 1 else choices[0]
        )
        return EncodedRemainder.encode(dtype, original, predicted, predictor)

    def _exact_parent(self) -> str | None:
        """Return the parent's manifest if its exact values may serve as predictions."""
        depth, oids = 0, {self.parent.manifest.patch}
        while oids := {oid for oid in oids if oid}:
            depth += 1
            manifests = {m for oid in oids for m in Patch.open(self.objects, oid).manifests}
            oids = {Manifest.from_record(self.objects.get_record("manifest", m)).patch for m in manifests}
        return self.parent_oid if 0 < depth < DEEPEST else None
