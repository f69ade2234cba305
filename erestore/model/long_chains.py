"""Chains that have grown long: what continues them is encoded on the base, at the error that was asked for on the parent."""

from __future__ import annotations

from dataclasses import replace

from erestore.model.matching import Matched, squared_distances
from erestore.model.quality import SMALLEST_MAX_ERROR, Quality, ratio
from erestore.model.variant import Variant


def may_flatten(quality: Quality) -> bool:
    """Tell whether a quality says how much may be lost, and not how much may be stored of a change, however large."""
    return quality.codec == "lowrank" and not quality.exact_only and quality.budget is None


def on_base(matched: Matched, parent: Variant, quality: Quality) -> tuple[Variant, Quality] | None:
    """Return a parent without its terms, and the quality that loses as much as was asked for on the parent with them.

    None where that is less than can be reached.
    """
    bare = replace(parent.manifest, terms=(), patch=None, digests={})
    base = Variant(parent.objects, bare)
    if quality.gate:
        return base, quality
    step, whole = squared_distances(matched, [parent, base])
    allowed = quality.max_error * ratio(min(step, whole), whole)
    return (base, replace(quality, max_error=allowed)) if allowed >= SMALLEST_MAX_ERROR else None
