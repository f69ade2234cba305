"""Chains that have grown long: what continues them is encoded on the base, at the error that was asked for on the parent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from erestore.encoding.quality import SMALLEST_MAX_ERROR, Quality
from erestore.ingest.matching import Matched, squared_distances
from erestore.objects.squared_errors import ratio
from erestore.residual.evenness import OWN_CHANGES, References
from erestore.variant.variant import Variant


def may_flatten(quality: Quality) -> bool:
    """Return whether a quality says how much may be lost, and not how much may be stored of a change, however large."""
    return quality.codec == "lowrank" and not quality.exact_only and quality.budget is None


def on_base(
    matched: Matched, parent: Variant, quality: Quality, missed: Mapping[str, float]
) -> tuple[Variant, Quality, References] | None:
    """Return a parent without its terms, and the quality that loses as much as was asked for on the parent with them.

    None where that is less than can be reached.

    Parameters
    ----------
    matched : Matched
    parent : Variant
    quality : Quality
    missed : Mapping[str, float]
        Squared errors of the parent's value, by key.
    """
    bare = replace(parent.manifest, terms=(), patch=None, digests={})
    base = Variant(parent.objects, bare)
    if quality.gate:
        return base, quality, OWN_CHANGES
    steps, wholes = squared_distances(matched, [parent, base])
    step, total = math.fsum(steps.values()), math.fsum(wholes.values())
    allowed = quality.max_error * ratio(min(step, total), total)
    if allowed < SMALLEST_MAX_ERROR:
        return None
    before = {key: min(change, missed.get(key, 0.0)) for key, change in steps.items()}
    references = References(before, {key: change - before[key] for key, change in steps.items()})
    return base, replace(quality, max_error=allowed), references
