"""A LoRA adapter to a manifest: its factors as they are, trained whole tensors beside them.

The variant is the adapted model, under the parent's layout: a checkout gives the merged weights, summed in float64 and
rounded once. It computes what PEFT's model does with the adapter in place, which PEFT's own merge does not always: where
the model ties head and embedding and the adapter changes one of them, the checkout has both. The adapter's own files stand
where the base's stood (see :mod:`erestore.ingest.adapter_files`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from erestore.arrays import Array, as_array, matrix_shape, raw_bytes, row_blocks, widen, without_warnings
from erestore.checkpoint.peft import PeftCheckpoint
from erestore.checkpoint.spelling import Spelling
from erestore.encoding.quality import Outcome
from erestore.ingest.adapted_layout import AdaptedTensor, adapted_layout, read_config
from erestore.ingest.adapter_values import AdaptedWeight, AdapterValues, adapted_weights
from erestore.ingest.tied_heads import TiedHead, TiedWeights, find_ties, require_pair, vocabulary_sizes
from erestore.ingest.variant_writer import StoredVariant
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.squared_errors import Errors
from erestore.objects.tensors import TensorWriter, content_digest, value_digest
from erestore.records import Manifest, Part, TensorRef, Term, WholeTensor, normal_terms
from erestore.variant.variant import Variant

if TYPE_CHECKING:
    from erestore.progress import Progress
    from erestore.residual.codecs.abc import EncodedSection
    from erestore.storage.objects import ObjectStore
    from erestore.storage.segments import PutResult

Parts = dict[str, tuple[Part, ...]]


class _NewTensor(NamedTuple):
    """A tensor, or the rows below a base's, to be written: data type, shape and value."""

    dtype: str
    shape: tuple[int, ...]
    value: Array


@dataclass
class _Plan:
    """What is written of an adapter.

    Attributes
    ----------
    residual : dict of str to AdaptedWeight
        Weights that are the parent's value with something added.
    dense, rows : dict of str to _NewTensor
        Tensors kept whole, and rows below those of the base.
    stored : dict
        Dense tensors that are in the store already.
    tensors : dict of str to AdaptedTensor
        Tensors of the layout that are new, or differ in data type or shape, by own name.
    is_untied : bool
        Whether the model no longer ties its head.
    """

    residual: dict[str, AdaptedWeight] = field(default_factory=dict)
    dense: dict[str, _NewTensor] = field(default_factory=dict)
    rows: dict[str, _NewTensor] = field(default_factory=dict)
    stored: Parts = field(default_factory=dict)
    tensors: dict[str, AdaptedTensor] = field(default_factory=dict)
    is_untied: bool = False


@dataclass
class AdapterWriter:
    """Stores one adapter as a variant of a parent.

    Attributes
    ----------
    objects : ObjectStore
    checkpoint : PeftCheckpoint
    parent : Variant
    progress : Progress
    tied_weights : TiedWeights
        Which weights of a model are the same.
    spelling : callable
        How a library that knows the model spells its names, given ``config.json``.
    notes : list of str
        What a user has to know about the variant, in sentences; complete once it is written.
    """

    objects: ObjectStore
    checkpoint: PeftCheckpoint
    parent: Variant
    progress: Progress
    tied_weights: TiedWeights
    spelling: Callable[[Mapping[str, Any]], Spelling | None]
    notes: list[str] = field(default_factory=list, init=False)

    @cached_property
    def values(self) -> AdapterValues:
        """What computes adapted weights."""
        return AdapterValues(self.checkpoint, self.parent)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The parent's ``config.json``."""
        return read_config(self.objects, self.parent.layout)

    def write(self) -> StoredVariant:
        """Write everything but the commit."""
        plan = self._plan()
        outcome = Outcome()
        residual = self._write_residual(plan, outcome)
        residuals = (residual.oid,) if residual else ()
        terms = normal_terms((*self.parent.manifest.terms, *(Term(oid, Fraction(1)) for oid in residuals)))
        dense, rows, whole_bytes = self._write_whole(plan, outcome)
        layout = adapted_layout(
            self.objects, self.parent.layout, self.checkpoint, plan.tensors, is_untied=plan.is_untied
        )
        manifest = Manifest(
            self.parent.manifest.base,
            terms,
            layout.oid,
            dict(self.parent.manifest.dense) | dense,
            dict(self.parent.manifest.rows) | rows,
        )
        manifest = self._with_digests(manifest, sorted(plan.residual), outcome)
        record = self.objects.put_record("manifest", manifest.to_record())
        added = (residual.added_bytes if residual else 0) + whole_bytes + layout.added_bytes + record.added_bytes
        return StoredVariant(record.oid, manifest, residuals, added, outcome)

    def _plan(self) -> _Plan:
        tensors = self._parent_tensors()
        ties = self._ties(tensors)
        heads = {name: tensors[key] for name, key in ties.items() if name not in tensors}
        match = self.checkpoint.match(tensors | heads, partial(self.spelling, self.config))
        weights = self.values.without_unchanged(adapted_weights(match), ties)
        plan = _Plan()
        if tie := require_pair(ties, weights):
            self._separate(tie, weights, plan)
        for key, weight in weights.items():
            if key in self.parent.base and key not in self.parent.manifest.dense and (weight.factors or weight.bias):
                self._add_residual(plan, key, weight)
            else:
                self._add_whole(plan, key, weight)
        for name, tensor in match.additions.items():
            info = self.checkpoint.tensors[tensor]
            plan.dense[name] = _NewTensor(info.dtype, info.shape, as_array(self.checkpoint.read(tensor)))
            plan.tensors[name] = AdaptedTensor(name, info.dtype, info.shape)
        return plan

    def _parent_tensors(self) -> dict[str, Any]:
        """Return the data types and shapes that the parent's tensors have, by key."""
        return {**self.parent.base, **self.values.shapes}

    def _ties(self, tensors: Mapping[str, Any]) -> dict[str, str]:
        """Return what the model ties, if the adapter changes anything of the size of a vocabulary."""
        layout = self.parent.layout
        sizes = {
            *vocabulary_sizes(self.config),
            *(max(layout.tensors[name].shape) for group in layout.ties for name in group),
        }
        parts = self.checkpoint.parts
        shapes = [
            *(factors.shape for factors in parts.factors.values()),
            *(self.checkpoint.tensors[name].shape for name in parts.whole.values()),
        ]
        if not any(max(shape) >= min(sizes) for shape in shapes if sizes and len(shape) == 2):
            return {}
        return find_ties(layout, self.config, tensors, self.tied_weights)

    def _separate(self, tie: TiedHead, weights: dict[str, AdaptedWeight], plan: _Plan) -> None:
        """Give head and embedding the value of each: tied still if they have the same, else two tensors.

        A tensor that was saved but not trained is the weight that the two share; factors and trained copies are of one.
        """
        head, embedding = (weights.pop(key, AdaptedWeight()) for key in (tie.name, tie.key))
        shared = next((side.whole for side in (embedding, head) if side.whole and side.is_original), None)
        head, embedding = (
            replace(side, whole=shared) if side.whole is None or side.is_original else side
            for side in (head, embedding)
        )
        dtype = self.values.shapes[tie.key].dtype
        if self._are_equal(head, embedding):
            if embedding != AdaptedWeight():
                weights[tie.key] = embedding
            if tie.name in self.parent.base:
                weights[tie.name] = head
            return
        plan.is_untied = True
        self.notes.append(
            f"The base ties '{tie.name}' to '{tie.key}'. With this adapter they differ, as in PEFT's model, so the variant "
            "has both and its config.json sets tie_word_embeddings to false."
        )
        names = [name for name, tensor in self.parent.layout.tensors.items() if tensor.key == tie.key]
        if embedding != AdaptedWeight():
            weights[tie.key] = embedding
        if tie.name in self.parent.base and tie.name in self.values.shapes:
            if head != AdaptedWeight():
                weights[tie.name] = head
            return
        shape = self.values.shape(tie.key, head)
        plan.tensors[tie.name] = AdaptedTensor(tie.name, dtype, shape)
        if (
            tie.name in names
        ):  # two names of one key, in a file that shares memory: the second is a tensor of its own now
            plan.tensors[tie.name] = plan.tensors[tie.name]._replace(splits=True)
        if head == AdaptedWeight() and (parts := self._stored_parts(tie.key)) is not None:
            plan.stored[tie.name] = parts
        else:
            plan.dense[tie.name] = _NewTensor(dtype, shape, self.values.rounded(tie.key, head, dtype))

    def _are_equal(self, head: AdaptedWeight, embedding: AdaptedWeight) -> bool:
        """Return whether both ends of a tie get the same value: the same whole tensor, and factors that are each other's."""
        if (head.factors is None) != (embedding.factors is None):
            return False
        if head.whole != embedding.whole:
            if head.whole is None or embedding.whole is None:
                return False
            one, two = (as_array(self.checkpoint.read(name)) for name in (head.whole, embedding.whole))
            if one.shape != two.shape or raw_bytes(one) != raw_bytes(two):
                return False
        if head.factors is None or embedding.factors is None:
            return True
        up, down = self.values.matrices(head.factors)
        other_up, other_down = self.values.matrices(embedding.factors)
        if head.factors.transpose != embedding.factors.transpose:
            other_up, other_down = other_down.T, other_up.T
        return (
            head.factors.scaling == embedding.factors.scaling
            and np.array_equal(up, other_up)
            and np.array_equal(down, other_down)
        )

    def _stored_parts(self, key: str) -> tuple[Part, ...] | None:
        """Return a parent's tensor as parts that are in the store, if it is there whole."""
        if key in self.parent.manifest.dense:
            return self.parent.manifest.dense[key]
        tensor, base_tensor = self.values.shapes[key], self.parent.base[key]
        touched = any(key in residual.tensors for _, residual in self.parent.residuals)
        if (
            touched
            or self.parent.manifest.patch
            or (base_tensor.dtype, base_tensor.shape) != (tensor.dtype, tensor.shape)
        ):
            return None
        return (Part(Fraction(1), base_tensor),)

    def _add_residual(self, plan: _Plan, key: str, weight: AdaptedWeight) -> None:
        """Plan a weight that is the parent's with something added, and rows below it where its vocabulary has grown."""
        plan.residual[key] = weight
        tensor, shape = self.values.shapes[key], self.values.shape(key, weight)
        shared = self.parent.base[key].shape[0] if shape else 0
        if len(shape) > 1 and shape[0] > shared:
            value = self.values.rounded(key, weight, tensor.dtype, start=shared)
            plan.rows[key] = _NewTensor(tensor.dtype, value.shape, value)
        self._change_layout(plan, key, tensor.dtype, shape)

    def _add_whole(self, plan: _Plan, key: str, weight: AdaptedWeight) -> None:
        """Plan a weight that is kept whole: trained so, or changed where the parent keeps it whole."""
        if weight.factors is None and weight.whole is not None:
            info = self.checkpoint.tensors[weight.whole]
            dtype, value = info.dtype, as_array(self.checkpoint.read(weight.whole))
        else:
            dtype = self.values.shapes[key].dtype
            value = self.values.rounded(key, weight, dtype)
        shape = self.values.shape(key, weight)
        plan.dense[key] = _NewTensor(dtype, shape, value)
        self._change_layout(plan, key, dtype, shape)

    def _change_layout(self, plan: _Plan, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        names = [name for name, tensor in self.parent.layout.tensors.items() if tensor.key == key] or [key]
        plan.tensors |= {name: AdaptedTensor(key, dtype, shape) for name in names if name not in plan.tensors}

    def _write_residual(self, plan: _Plan, outcome: Outcome) -> PutResult | None:
        if not plan.residual:
            return None
        with ResidualWriter(self.objects, self.parent.manifest.base) as writer:
            for number, (key, weight) in enumerate(sorted(plan.residual.items()), 1):
                sections = self._sections(key, weight)
                for section in sections:
                    outcome.count(section.codec)
                shape = self.parent.base[key].shape
                writer.add(key, shape, sections, Errors(0.0, 0.0, self.values.squared_norm(weight)))
                self.progress("encoding", number, len(plan.residual))
            return writer.finish()

    def _sections(self, key: str, weight: AdaptedWeight) -> tuple[EncodedSection, ...]:
        rows = matrix_shape(self.parent.base[key].shape)[0]
        sections = []
        if weight.whole is not None and (difference := self.values.difference(key, weight.whole, rows)) is not None:
            sections.append(difference)
        if weight.factors is not None:
            sections.append(self.values.encode(weight.factors, rows))
        if weight.bias is not None:
            sections.append(self.values.encode_bias(weight.bias))
        return tuple(sections)

    def _write_whole(self, plan: _Plan, outcome: Outcome) -> tuple[Parts, Parts, int]:
        outcome.kinds |= {"whole": len(plan.dense) + len(plan.stored)} if plan.dense or plan.stored else {}
        outcome.kinds |= {"added rows": len(plan.rows)} if plan.rows else {}
        if not plan.dense and not plan.rows:
            return dict(plan.stored), {}, 0
        places: dict[tuple[str, str], tuple[_NewTensor, str, tuple[int, int]]] = {}
        with TensorWriter(self.objects, align=1) as writer:
            for kind, tensors in (("dense", plan.dense), ("rows", plan.rows)):
                for key, tensor in sorted(tensors.items()):
                    content = raw_bytes(np.ascontiguousarray(tensor.value))
                    digest = content_digest(tensor.dtype, tensor.shape, content)
                    places[kind, key] = tensor, digest, writer.add(content, tensor.dtype)
            stored = writer.finish()
        parts: dict[str, Parts] = {"dense": dict(plan.stored), "rows": {}}
        for (kind, key), (tensor, digest, position) in places.items():
            whole_tensor = WholeTensor(tensor.dtype, tensor.shape, digest, TensorRef(stored.oid, *position))
            parts[kind][key] = (Part(Fraction(1), whole_tensor),)
        return parts["dense"], parts["rows"], stored.added_bytes

    def _with_digests(self, manifest: Manifest, keys: list[str], outcome: Outcome) -> Manifest:
        """Decode what was written and record what it decodes to; measure how far it is from the parent."""
        variant = Variant(self.objects, manifest)
        layout = {tensor.key: tensor for tensor in variant.layout.tensors.values()}
        digests = {key: digest for key, digest in self.parent.manifest.digests.items() if key not in manifest.dense}
        for number, key in enumerate(keys, 1):
            entry, before = layout.get(key), self.values.shapes.get(key)
            if entry is not None and before is not None and key not in manifest.dense:
                value = variant.rounded(key, entry.dtype, entry.shape)
                shared = min(entry.shape[0], self.parent.base[key].shape[0]) if entry.shape else 1
                digests[key] = value_digest(value[:shared] if entry.shape else value)
                parent = self.parent.rounded(key, before.dtype, before.shape)
                rows = min(matrix_shape(entry.shape)[0], matrix_shape(before.shape)[0])
                with without_warnings():
                    for start, stop in row_blocks(rows, matrix_shape(entry.shape)[1]):
                        former = widen(parent.reshape(matrix_shape(before.shape))[start:stop])
                        change = widen(value.reshape(matrix_shape(entry.shape))[start:stop]) - former
                        outcome.squared_norm += float((change * change).sum())
                        outcome.base_norm += float((former * former).sum())
            self.progress("verifying", number, len(keys))
        return replace(manifest, digests=digests if variant.is_reproducible else {})
