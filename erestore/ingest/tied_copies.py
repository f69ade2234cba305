"""A tensor that a checkpoint holds twice: a head beside the embedding that it is tied to, both written out.

Some writers drop the second name of tied tensors, some write one tensor under both. Both are the same model, so the copy has
the manifest key of the tensor that it equals. It counts as a copy only where the base does not tell the two apart, being
tied itself: it lacks one, or holds equal ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from erestore.arrays import same_bits
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.dtypes import is_floating
from erestore.records import WholeTensor

_HEAD = re.compile(
    r"(?:^|\.)(?:lm_head|embed_out|output_projection|generator|proj_out|(?:predictions|lm_head)\.decoder)\.weight$"
)
_EMBEDDING = re.compile(r"(?:^|[._])(?:shared|embeddings?|embed_tokens|embed_in|wte|tok_embeddings|token_embedding)\b")


class TiedCopies(NamedTuple):
    """Copies by name, with the name of what they are copies of; and sentences about heads that are none."""

    originals: Mapping[str, str]
    notes: tuple[str, ...]


def find_tied_copies(checkpoint: Checkpoint, matched: Mapping[str, str], base: Mapping[str, WholeTensor]) -> TiedCopies:
    """Find tensors that are held twice.

    Parameters
    ----------
    checkpoint : Checkpoint
        Read where shapes and the base leave it open.
    matched : Mapping[str, str]
        The base's name of every name that has one.
    base : Mapping[str, WholeTensor]
    """
    originals: dict[str, str] = {}
    notes = []
    for name, other in _candidates(checkpoint, matched, base):
        if name in originals or other in originals:
            continue
        if _is_copy(checkpoint.read(name), checkpoint.read(other)):
            originals[name] = other
        elif _HEAD.search(name):
            tied = "ties it to" if name in matched else "has it in"
            notes.append(
                f"'{name}' differs from '{other}', and the base {tied} that tensor: it is kept as a separate tensor."
            )
    return TiedCopies(originals, tuple(notes))


def _candidates(
    checkpoint: Checkpoint, matched: Mapping[str, str], base: Mapping[str, WholeTensor]
) -> Iterator[tuple[str, str]]:
    """Yield pairs of names of which the first may be a copy of the second, as far as the base tells."""
    followers = {name for group in checkpoint.ties for name in group[1:]}
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, info in checkpoint.tensors.items():
        if len(info.shape) > 1 and is_floating(info.dtype) and name not in followers:
            alike.setdefault((info.dtype, info.shape), []).append(name)
    for names in alike.values():
        embeddings = sorted(filter(_EMBEDDING.search, names), key=lambda name: ("shared" not in name, "coder." in name))
        for number, other in enumerate(embeddings):
            if other not in matched:
                continue
            for name in names:
                is_tied = name not in matched or base[matched[name]].digest == base[matched[other]].digest
                if is_tied and name not in embeddings[: number + 1]:
                    yield name, other


def _is_copy(one: torch.Tensor, two: torch.Tensor) -> bool:
    return same_bits(one, two) and bool((one != one.reshape(-1)[:1]).any())  # all equal says nothing
