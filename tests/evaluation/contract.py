"""A fixed residual made of integers alone, evaluated and digested: run as a script, it prints its digests.

No random generator and no float product enters the inputs, so the digests must be the same on every machine.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3
from former_codes import encode_lowrank, encode_vector

from erestore.arrays import Array, named_dtype
from erestore.residual import runs
from erestore.residual.codecs import dense, gamma, lowrank, lowrank2, remainder
from erestore.residual.codecs.abc import EncodedPart, EncodedSection, Section
from erestore.residual.codecs.registry import codec
from erestore.residual.dyadic import Dyadic
from erestore.variant.variant import LinearTensor

M, N, RANK = 77, 130, 37

GOLDEN = {
    "packed float32": "4be1795f153a0e63",
    "packed bfloat16": "561f8613311dde19",
    "packed float16": "2726bb5ec25c9e69",
    "packed float64": "69aff31b6a2f1924",
    "runs float32": "47f6f65e46798540",
    "runs bfloat16": "8f34a2db7bae3fa0",
    "runs float16": "5abbd08fb118f260",
    "runs float64": "0d46737f7b560ff0",
}


def integers(count: int, seed: int, bound: int) -> np.ndarray:
    """Integers in ``[-bound, bound]`` from a linear congruential generator."""
    state, values = seed, []
    for _ in range(count):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        values.append((state >> 33) % (2 * bound + 1) - bound)
    return np.array(values, dtype=np.int64)


def matrix(seed: int, bound: int) -> np.ndarray:
    """Integers ``(M, N)``."""
    return integers(M * N, seed, bound).reshape(M, N)


def codes(columns: list[int] | None = None) -> lowrank.Codes:
    """Integer factors in two groups, with columns of several widths; `columns` permutes them."""
    left = integers(M * RANK, 1, 900).reshape(M, RANK)
    right = integers(N * RANK, 2, 900).reshape(N, RANK)
    scale = np.array([1 if k < 5 else 10 if k < 20 else 300 for k in range(RANK)])
    left, right = left // scale, right // scale
    mantissas = abs(integers(RANK, 3, 100)) + 1
    shifts = abs(integers(RANK, 4, 6))
    order = list(range(RANK)) if columns is None else columns
    left, right = (side[:, order].astype(np.int16) for side in (left, right))
    return lowrank.Codes(left, right, mantissas[order], shifts[order], ((20, -31), (RANK - 20, -38)))


def decoded(encoded: EncodedSection, shape: tuple[int, int] = (M, N)) -> Section:
    return codec(encoded.codec).decode(encoded.parameters, [stored(part) for part in encoded.parts], shape)


def stored(part: EncodedPart) -> bytes:
    """Take a part through the stage of runs, if it has any, and back."""
    if not part.layout:
        return part.content
    return runs.decode(runs.encode(part.content, part.layout), len(part.content))


def value(columns: list[int] | None = None) -> LinearTensor:
    """Two terms: gamma + lowrank with coefficient 1, and vector + dense with coefficient 1/3."""
    base = matrix(5, 2**20).astype(np.float32) / 2**22
    first = (decoded(gamma.encode(Dyadic(-6543211, -29))), decoded(encode_lowrank(codes(columns))))
    small = matrix(6, 50) * 3 * 2.0**-20
    raw = matrix(7, 1000).astype(np.float32) / 2**21
    second = (decoded(encode_vector(small, 3 * 2.0**-20)), decoded(dense.encode(raw)))
    return LinearTensor(base, ((1.0, first), (1 / 3, second)))


def value_in_runs(columns: list[int] | None = None) -> LinearTensor:
    """Two terms of the codecs that are written now: lowrank2 + remainder with coefficient 1, and remainder with 1/3."""
    base = matrix(5, 2**20).astype(np.float32) / 2**22
    wide = matrix(6, 40_000).astype(np.int32)
    narrow = matrix(7, 50).astype(np.int16) // 20
    first = (
        decoded(lowrank2.encode(codes(columns))),
        decoded(remainder.encode([narrow], Dyadic(13_421_773, -42), (M, N))),
    )
    second = (decoded(remainder.encode([wide], Dyadic(-5, -37), (M, N))),)
    return LinearTensor(base, ((1.0, first), (1 / 3, second)))


VALUES = {"packed": value, "runs": value_in_runs}


def digest(values: Array) -> str:
    return blake3(values.tobytes()).hexdigest(length=8)


def digests() -> dict[str, str]:
    cases = (name.split() for name in GOLDEN)
    return {f"{form} {dtype}": digest(VALUES[form]().rounded(M, named_dtype(dtype))) for form, dtype in cases}


if __name__ == "__main__":
    for name, found in digests().items():
        print(f"{name}: {found}")
