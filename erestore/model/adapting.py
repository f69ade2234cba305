"""A LoRA adapter to a manifest: its factors as they are, trained whole tensors beside them.

The variant is the adapted model, under the parent's layout: a checkout gives the merged weights, summed in float64 and
rounded once. The adapter's own files are kept in the folder ``adapter/`` of the layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch

from erestore.arrays import as_array, raw_bytes, widen, without_warnings
from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.peft import LoraFactors, PeftCheckpoint
from erestore.errors import CheckpointError
from erestore.model.committing import StoredVariant
from erestore.model.packing import ResidualWriter
from erestore.model.quality import Outcome
from erestore.model.residuals import Errors, matrix_shape
from erestore.model.tensors import TensorWriter, content_digest, value_digest
from erestore.model.variant import Variant, row_blocks
from erestore.records import Layout, LayoutTensor, Manifest, Part, TensorRef, Term, WholeTensor, normal_terms
from erestore.residual.codecs import dense, factors

if TYPE_CHECKING:
    from erestore.progress import Progress
    from erestore.residual.codecs.abc import EncodedSection
    from erestore.storage.objects import Objects

FOLDER = "adapter"
"""Where the adapter's own side files are in the layout."""


@dataclass
class AdapterWriter:
    """Stores one adapter as a variant of a parent.

    Attributes
    ----------
    objects : Objects
    checkpoint : PeftCheckpoint
    parent : Variant
    progress : Progress
    """

    objects: Objects
    checkpoint: PeftCheckpoint
    parent: Variant
    progress: Progress

    def write(self) -> StoredVariant:
        """Write everything but the commit."""
        match = self.checkpoint.match(self.parent.base)
        if hidden := sorted(set(match.factors) & set(self.parent.manifest.dense)):
            raise CheckpointError(
                f"The adapter changes '{hidden[0]}', which the parent keeps whole, so it would have no effect.",
                hint="Merge the adapter (merge_and_unload), save the model, and commit that.",
            )
        both = set(match.factors) & set(match.replacements)
        whole = {key: name for key, name in match.replacements.items() if key not in both} | dict(match.additions)
        outcome = Outcome()
        with ResidualWriter(self.objects, self.parent.manifest.base) as writer:
            for number, (key, held) in enumerate(sorted(match.factors.items()), 1):
                sections: tuple[EncodedSection, ...] = (self._encode(key, held),)
                if key in both:
                    sections = (self._difference(key, match.replacements[key]), *sections)
                for section in sections:
                    outcome.count(section.codec)
                shape = self.parent.base[key].shape
                writer.add(key, shape, sections, Errors(0.0, 0.0, self._squared_norm(held)))
                self.progress("encoding", number, len(match.factors))
            residual = writer.finish()
        parts, whole_bytes = self._write_whole(whole, outcome)
        layout, layout_bytes = self._store_layout(whole)
        terms = normal_terms((*self.parent.manifest.terms, Term(residual.oid, Fraction(1))))
        held_rows = dict(self.parent.manifest.rows)
        manifest = Manifest(
            self.parent.manifest.base, terms, layout, dict(self.parent.manifest.dense) | parts, held_rows
        )
        manifest = self._with_digests(manifest, sorted(match.factors), outcome)
        written = self.objects.put_record("manifest", manifest.to_record())
        added = residual.added_bytes + whole_bytes + layout_bytes + written.added_bytes
        return StoredVariant(written.oid, manifest, (residual.oid,), added, outcome)

    def _matrices(self, held: LoraFactors) -> tuple[torch.Tensor, torch.Tensor]:
        """Return up and down as matrices, ``(outputs, r)`` and ``(r, inputs)``."""
        up, down = self.checkpoint.read(held.up), self.checkpoint.read(held.down)
        return up.reshape(up.shape[0], -1), down.reshape(down.shape[0], -1)

    def _encode(self, key: str, held: LoraFactors) -> EncodedSection:
        up, down = self._matrices(held)
        if not (as_array(up).dtype in factors.STORED and as_array(down).dtype in factors.STORED):
            raise CheckpointError(f"The adapter of '{key}' has factors of type {up.dtype}, which are not kept.")
        if not (bool(torch.isfinite(up).all()) and bool(torch.isfinite(down).all())):
            raise CheckpointError(
                f"The adapter of '{key}' holds NaN or infinity.", hint="Its training has failed; commit an earlier one."
            )
        return factors.encode(as_array(up), as_array(down), float(held.scaling), transpose=held.transpose)

    def _difference(self, key: str, name: str) -> EncodedSection:
        """Return what a trained whole tensor adds to the parent's value, where factors come on top of it."""
        own = self.checkpoint.read(name)
        linear = self.parent.linear(key)
        difference = np.array(widen(as_array(own))).reshape(linear.base.shape)
        with without_warnings():
            for start, stop in row_blocks(*linear.base.shape):
                difference[start:stop] -= linear.rows(start, stop)
        return dense.encode(difference)

    def _squared_norm(self, held: LoraFactors) -> float:
        up, down = (side.to(torch.float64) for side in self._matrices(held))
        return float(held.scaling) ** 2 * float(((up.T @ up) * (down @ down.T)).sum())

    def _write_whole(self, whole: Mapping[str, str], outcome: Outcome) -> tuple[dict[str, tuple[Part, ...]], int]:
        if not whole:
            return {}, 0
        fresh: dict[str, tuple[TensorInfo, str, tuple[int, int]]] = {}
        with TensorWriter(self.objects, align=1) as writer:
            for key, name in sorted(whole.items()):
                info, content = self.checkpoint.tensors[name], raw_bytes(as_array(self.checkpoint.read(name)))
                fresh[key] = info, content_digest(info.dtype, info.shape, content), writer.add(content, info.dtype)
            written = writer.finish()
        outcome.kinds["whole"] = len(fresh)
        return {
            key: (Part(Fraction(1), WholeTensor(info.dtype, info.shape, digest, TensorRef(written.oid, *place))),)
            for key, (info, digest, place) in fresh.items()
        }, written.added_bytes

    def _store_layout(self, whole: Mapping[str, str]) -> tuple[str, int]:
        """Store the parent's layout with the adapter's whole tensors and files put in."""
        layout: Layout = self.parent.layout
        tensors = dict(layout.tensors)
        for key, name in whole.items():
            info = self.checkpoint.tensors[name]
            names = [own for own, tensor in tensors.items() if tensor.key == key] or [key]
            tensors |= {own: LayoutTensor(key, info.dtype, info.shape) for own in names}
        added, fresh = 0, tuple(own for own in tensors if own not in layout.tensors)
        files = (replace(layout.files[0], tensors=(*layout.files[0].tensors, *fresh)), *layout.files[1:])
        side_files = dict(layout.side_files)
        if layout.is_directory:
            for name, path in self.checkpoint.side_files.items():
                blob = self.objects.put_blob_file(path)
                side_files[f"{FOLDER}/{name}"] = blob.oid
                added += blob.added_bytes
        if fresh and len(files) > 1:
            raise CheckpointError(
                "The adapter adds tensors to a sharded base, whose index would no longer be right.",
                hint="Merge the adapter (merge_and_unload), save the model, and commit that.",
            )
        record = replace(layout, tensors=tensors, files=files, side_files=side_files).to_record()
        written = self.objects.put_record("layout", record)
        return written.oid, added + written.added_bytes

    def _with_digests(self, manifest: Manifest, keys: list[str], outcome: Outcome) -> Manifest:
        """Decode what was written and record what it decodes to; measure how far it is from the parent."""
        variant = Variant(self.objects, manifest)
        layout = {tensor.key: tensor for tensor in variant.layout.tensors.values()}
        digests = {key: digest for key, digest in self.parent.manifest.digests.items() if key not in manifest.dense}
        for number, key in enumerate(keys, 1):
            held = layout.get(key)
            if held is not None and key not in manifest.dense:
                value = variant.rounded(key, held.dtype, held.shape)
                shared = min(held.shape[0], self.parent.base[key].shape[0]) if held.shape else 1
                digests[key] = value_digest(value[:shared] if held.shape else value)
                parent = self.parent.rounded(key, held.dtype, held.shape)
                with without_warnings():
                    for start, stop in row_blocks(*matrix_shape(held.shape)):
                        rows = widen(parent.reshape(matrix_shape(held.shape))[start:stop])
                        change = widen(value.reshape(matrix_shape(held.shape))[start:stop]) - rows
                        outcome.squared_norm += float((change * change).sum())
                        outcome.base_norm += float((rows * rows).sum())
            self.progress("verifying", number, len(keys))
        return replace(manifest, digests=digests if variant.is_reproducible else {})
