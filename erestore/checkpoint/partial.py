"""Refusing a part of a model: what one process of a sharded run saves is not a fine-tune, though its names are right."""

from __future__ import annotations

from collections.abc import Mapping

from erestore.checkpoint.names import Match
from erestore.checkpoint.shapes import Typed
from erestore.errors import CheckpointError


def refuse_partial(tensors: Mapping[str, Typed], base: Mapping[str, Typed], match: Match) -> None:
    """Refuse a checkpoint that lacks values of the base's tensors.

    Raises
    ------
    CheckpointError
        If a tensor is empty where the base's has values, or most matrices have fewer rows than the base's: a vocabulary
        shrinks in one or two of them.
    """
    pairs = {name: (tensors[name], base[key]) for name, key in match.keys.items()}
    named_alike = {name: (tensors[name], base[name]) for name in tensors if name in base}
    empty = [
        name
        for name, (ours, theirs) in {**named_alike, **match.mismatched, **pairs}.items()
        if 0 in tuple(ours.shape) and 0 not in tuple(theirs.shape)
    ]
    if empty:
        raise CheckpointError(
            f"{len(empty)} of {len(tensors)} tensors are empty where the base has values, such as '{empty[0]}': "
            "their values were not gathered before they were saved (DeepSpeed ZeRO-3).",
            hint="Run the zero_to_fp32.py that DeepSpeed put into the training checkpoint, or save again with "
            "stage3_gather_16bit_weights_on_model_save.",
        )
    matrices = [(ours.shape, theirs.shape) for ours, theirs in pairs.values() if len(ours.shape) > 1]
    shrunk = sum(ours[0] < theirs[0] for ours, theirs in matrices)
    if (shrunk > 2 and 2 * shrunk > len(matrices)) or 2 <= len(matrices) == shrunk:
        raise CheckpointError(
            f"{shrunk} of {len(matrices)} matrices have fewer rows than the base's: this is a part of a model, as one "
            "process of several saves it.",
            hint="Gather the whole model where it was trained, save that, and commit it.",
        )
