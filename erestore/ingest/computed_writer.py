"""Values that are computed, not read from a checkpoint, written as one residual: flattened sums, non-linear merges."""

from __future__ import annotations

from erestore.encoding.computed_source import ComputedCheckpoint, computed_deltas, difference_from, on_terms
from erestore.encoding.delta import Differences
from erestore.encoding.quality import Quality
from erestore.ingest.variant_writer import StoredVariant, VariantWriter
from erestore.progress import Progress, silent
from erestore.records import Term
from erestore.residual.evenness import OWN_CHANGES, References
from erestore.storage.objects import ObjectStore
from erestore.variant.variant import Variant


def write_computed(
    objects: ObjectStore,
    variant: Variant,
    quality: Quality,
    *,
    differences: Differences | None = None,
    terms: tuple[Term, ...] = (),
    references: References = OWN_CHANGES,
    progress: Progress = silent,
) -> StoredVariant:
    """Encode a variant, or what is computed from it, as one residual on its base, or on a combination of others.

    Parameters
    ----------
    objects : ObjectStore
    variant : Variant
        Its layout has to be stored. Whole tensors and added rows stay where they are if they are not combinations.
    quality : Quality
        Of what is lost of these values, relative to their difference from the parent's. If exact, a tensor is read at a time.
    differences : Differences, optional
        What the result adds to its parent; by default what the variant's terms do.
    terms : tuple of Term
        Of the residuals that the result shares with others, and that its own is added to: with the base they are its parent.
    references : References
        What the loss of a tensor is compared with.
    progress : Progress

    Returns
    -------
    StoredVariant
    """
    keys = {name: tensor.key for name, tensor in variant.layout.tensors.items()}
    parent = on_terms(objects, variant, terms)
    if quality.exact:  # what is lost is measured against the exact values, which the remainder brings back
        exact = ComputedCheckpoint(variant)
        layout = variant.manifest.layout
        return VariantWriter(
            objects, exact, keys, parent, "", quality, progress, layout=layout, references=references
        ).write()
    with computed_deltas(variant, parent, differences or difference_from(variant, parent)) as deltas:
        checkpoint, layout = deltas.dense.checkpoint, variant.manifest.layout
        return VariantWriter(
            objects,
            checkpoint,
            keys,
            parent,
            "",
            quality,
            progress,
            layout=layout,
            source=deltas,
            references=references,
        ).write()
