"""Sections that encoders write rarely or never, made by hand: every width, several groups and bands, ties, all dtypes."""

from __future__ import annotations

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import weights

from erestore.api import Store
from erestore.arrays import Array, as_array
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.squared_errors import Errors
from erestore.objects.tensors import value_digest
from erestore.records import Commit, Term, normal_terms
from erestore.residual.codecs import dense, factors, gamma, lowrank
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.dyadic import Dyadic
from erestore.variant.variant import Variant

sys.path.append(str(Path(__file__).parents[1]))

from former_codes import encode_lowrank, encode_vector

RANK = 11


def integers(shape: tuple[int, ...], seed: int, bound: int) -> Array:
    """Int64 between ``-bound`` and ``bound``."""
    return as_array((weights.numbers(shape, seed, 31) * (bound + 1)).to(torch.int64))


def codes(m: int, n: int) -> lowrank.Codes:
    """Eleven components in three groups, with columns of all widths."""
    bounds = [40_000, 30_000, 120, 127, 7, 6, 5, 1, 1, 0, 3]
    left = np.stack([integers((m,), 20 + k, bound) for k, bound in enumerate(bounds)], axis=1)
    right = np.stack([integers((n,), 40 + k, min(bound, 100) or 1) for k, bound in enumerate(bounds)], axis=1)
    mantissas = np.array([251, 65_535, 3, 129, 40_001, 2, 77, 1, 255, 13, 1])
    shifts = np.array([0, 3, 17, 1, 0, 5, 2, 21, 9, 48, 0])
    return lowrank.Codes(left, right, mantissas, shifts, ((4, -45), (6, -40), (1, -9)))


def halfway(tensor: torch.Tensor) -> torch.Tensor:
    """Return float64 differences that lead exactly to the middle between two neighbours, or a little beside it."""
    neighbour = (tensor.view(torch.int16) + 1).view(tensor.dtype)
    half = (neighbour.to(torch.float64) - tensor.to(torch.float64)) / 2
    beside = torch.tensor([0.0, 2.0**-40, -(2.0**-40)], dtype=torch.float64).repeat(half.numel() // 3 + 1)
    return half * (1 + beside[: half.numel()].view(half.shape))


def dense_values(tensor: torch.Tensor) -> EncodedSection:
    return dense.encode(as_array(tensor))


Sections = dict[str, tuple[EncodedSection, ...]]


def sections(base: weights.Tensors) -> Sections:
    """Return the crafted sections by key."""
    dense_weight, embed = base["dense.weight"], base["embed.weight"]
    up, down = (weights.numbers(shape, seed, 9) for shape, seed in (((32, 3), 60), ((3, 48), 61)))
    small = weights.numbers((24,), 62, 20).view(3, 8)
    return {
        "dense.bias": (
            encode_vector(weights.numbers((32,), 63, 20) * 3000, 0.1),
            dense_values(weights.numbers((32,), 64).to(torch.bfloat16)),
        ),
        "dense.weight": (dense_values(halfway(dense_weight)),),
        "double.weight": (encode_vector(weights.numbers((6, 5), 65, 30), 1e-7), gamma.encode(Dyadic(-12_345_677, -25))),
        "eight.weight": (dense_values(weights.numbers((8, 8), 66).to(torch.float32) * 400),),
        "embed.weight": (
            gamma.encode(Dyadic(3, -7)),
            encode_lowrank(codes(*embed.shape)),
            factors.encode(as_array(up.to(torch.float16)), as_array(down.to(torch.bfloat16)), 1 / 3, transpose=True),
        ),
        "half.weight": (dense_values(small.to(torch.float16)), encode_vector(small, 0.9)),
        "scale": (dense_values(torch.tensor([0.1], dtype=torch.float64)),),
    }


def craft(store: Store) -> None:
    """Commit them on ``base``."""
    commit_sections(store, sections(weights.base()))


def commit_sections(store: Store, held: Sections) -> None:
    """Commit sections on ``base``, with a digest of what they decode to."""
    parent = store.resolve("base")
    manifest = store.manifest_of("base")
    base = Variant(store.objects, manifest).base
    with ResidualWriter(store.objects, manifest.base) as writer:
        for key, encoded in sorted(held.items()):
            writer.add(key, base[key].shape, encoded, Errors(0.0, 0.0, 1.0))
        own = writer.finish().oid
    manifest = replace(manifest, terms=normal_terms((Term(own, Fraction(1)),)))
    variant = Variant(store.objects, manifest)
    digests = {key: value_digest(variant.rounded(key, base[key].dtype, base[key].shape)) for key in held}
    operation = store.begin()
    commit = Commit(
        manifest=store.objects.put_record("manifest", replace(manifest, digests=digests).to_record()).oid,
        parents=(parent,),
        edge="adapted",
        author=operation.author,
        time=operation.time,
        message="Made by hand",
        own=(own,),
    )
    store.record(commit, "crafted", operation, expected=0)
