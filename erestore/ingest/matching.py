"""Which manifest key every tensor of a checkpoint gets, and which of several parents it is nearest to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erestore.arrays import as_array, as_tensor, row_blocks, widen
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.dtypes import array_dtype
from erestore.checkpoint.lora_files import lora_refusal
from erestore.checkpoint.names import match_names
from erestore.checkpoint.partial import refuse_partial
from erestore.checkpoint.roles import Role
from erestore.checkpoint.spelling import Spelling
from erestore.encoding.target import LoadedTarget, Target, divide
from erestore.errors import CheckpointError
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.ingest.tied_copies import find_tied_copies
from erestore.residual.rounding import round_to
from erestore.variant.variant import Variant

_CONFIG = "config.json"


@dataclass(frozen=True)
class Matched:
    """A checkpoint and the manifest key of each of its names.

    Attributes
    ----------
    checkpoint : Checkpoint
    keys : Mapping[str, str]
        The base's name where there is a counterpart, else the own name; of a tensor that is held twice both names have
        the key of one.
    prefixes : str
        Which prefixes were exchanged, in words.
    notes : tuple of str
        Sentences about tensors that are not what they seem to be.
    """

    checkpoint: Checkpoint
    keys: Mapping[str, str]
    prefixes: str
    notes: tuple[str, ...] = ()


Spell = Callable[[Mapping[str, Any]], Spelling | None]
"""Given a model's configuration, returns how the library that it is of spells its names."""


def match_base(checkpoint: Checkpoint, variant: Variant, library: Spell | None = None) -> Matched:
    """Match a checkpoint's names to those of a variant's base.

    Parameters
    ----------
    checkpoint : Checkpoint
    variant : Variant
    library : callable, optional
        Asked where much has no counterpart, with what ``config.json`` holds.

    Raises
    ------
    CheckpointError
        If the checkpoint has another architecture, or is a part of a model.
    """
    conversions = None if library is None else lambda: library(_configuration(checkpoint, variant))
    match = match_names(checkpoint.tensors, variant.base, conversions)
    refuse_partial(checkpoint.tensors, variant.base, match)
    try:
        match.require_same_architecture()
    except CheckpointError as error:
        raise (lora_refusal(checkpoint.tensors) or error) from error
    matched_keys = set(match.keys.values())
    keys = dict(match.keys)
    for name in match.unmatched_own:
        # An own name may be another tensor's name in the base; "#" cannot clash with what torch calls a parameter.
        keys[name] = f"{name}#own" if name in matched_keys else name
    copies = find_tied_copies(checkpoint, match.keys, variant.base)
    keys |= {name: keys[original] for name, original in copies.originals.items()}
    notes = (
        copies.notes if match.experts is None else (*copies.notes, f"{match.experts.sentence}. {match.experts.hint}")
    )
    return Matched(checkpoint, keys, match.description, notes)


def _configuration(checkpoint: Checkpoint, variant: Variant) -> Mapping[str, Any]:
    """Return the configuration of a checkpoint, else of a variant; empty if neither has one."""
    try:
        if _CONFIG in checkpoint.side_files:
            content = checkpoint.side_files[_CONFIG].read_bytes()
        elif _CONFIG in variant.layout.side_files:
            content = variant.objects.get_blob(variant.layout.side_files[_CONFIG])
        else:
            return {}
        config = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _weights(matched: Matched, variant: Variant) -> list[Target]:
    """Return the tensors that distances are over."""
    targets, _ = divide(matched.checkpoint, matched.keys, variant.base)
    return [target for target in targets if target.role is Role.WEIGHT]


def nearer_parent(matched: Matched, variants: Sequence[Variant]) -> int:
    """Return the number of the variant whose linear value is nearest, judged by the first rows of every tensor."""
    targets = _weights(matched, variants[0])
    distances = [0.0] * len(variants)
    for target in targets:
        for number, variant in enumerate(variants):
            loaded = LoadedTarget.read(target, matched.checkpoint.read, variant)
            start, stop = next(row_blocks(target.shared, loaded.original.shape[1]), (0, 0))
            difference = loaded.original[start:stop].to(torch.float64) - as_tensor(loaded.parent.rows(start, stop))
            distances[number] += float(torch.nan_to_num(difference * difference).sum())
    return distances.index(min(distances))


def squared_distances(matched: Matched, variants: Sequence[Variant]) -> list[dict[str, float]]:
    """Return how far a checkpoint is from each variant, tensor by tensor, in all finite weights that the base has too.

    Squared, in the checkpoint's dtypes: what errors of a commit on that variant are relative to.
    """
    targets = _weights(matched, variants[0])

    def work(target: Target) -> list[float]:
        distances = []
        for variant in variants:
            loaded = LoadedTarget.read(target, matched.checkpoint.read, variant)
            if not loaded.is_finite():
                return [0.0] * len(variants)
            dtype = array_dtype(target.info.dtype)
            total = 0.0
            for start, stop in row_blocks(target.shared, loaded.original.shape[1]):
                before = widen(round_to(loaded.parent.rows(start, stop), dtype))
                total += float(((widen(as_array(loaded.original[start:stop])) - before) ** 2).sum())
            distances.append(total)
        return distances

    for variant in variants:
        variant.open_parts()
    with tensor_threads() as executor:
        rows = list(bounded_map(executor, work, targets, in_flight=worker_count()))
    return [
        {target.key: row[number] for target, row in zip(targets, rows, strict=True)} for number in range(len(variants))
    ]
