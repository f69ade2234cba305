"""Decoding gives the same bits whatever computes it."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import contract
import numpy as np
import pytest
import torch
from former_codes import encode_lowrank

from erestore.arrays import as_tensor, named_dtype
from erestore.errors import CorruptionError
from erestore.residual.codecs import lowrank, lowrank2
from erestore.residual.rounding import round_to

HERE = Path(__file__).parent


def test_golden_digests_hold_on_this_machine() -> None:
    assert contract.digests() == contract.GOLDEN


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
        {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F"},
        {"OPENBLAS_CORETYPE": "Haswell"},
    ],
)
def test_golden_digests_hold_in_another_environment(environment: dict[str, str]) -> None:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, HERE.parents[:2])), **environment}
    printed = subprocess.run(
        [sys.executable, HERE / "contract.py"], env=variables, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert dict(line.split(": ") for line in printed.splitlines()) == contract.GOLDEN


FORMS = pytest.mark.parametrize("form", contract.VALUES)
ENCODERS = {"packed": encode_lowrank, "runs": lowrank2.encode}


def permuted() -> list[int]:
    """Columns shuffled within each group, not across."""
    return [*reversed(range(20)), *range(30, contract.RANK), *range(20, 30)]


@FORMS
def test_permuted_columns_within_a_group_change_nothing(form: str) -> None:
    value = contract.VALUES[form]
    assert np.array_equal(value().rows(0, contract.M), value(permuted()).rows(0, contract.M))


@FORMS
@pytest.mark.parametrize("step", [1, 7, 64])
def test_tiles_are_the_whole(form: str, step: int) -> None:
    tensor = contract.VALUES[form]()
    tiles = [tensor.rows(start, min(contract.M, start + step)) for start in range(0, contract.M, step)]
    assert np.array_equal(np.concatenate(tiles), tensor.rows(0, contract.M))


@FORMS
def test_torch_s_float64_products_are_the_same(form: str) -> None:
    codes = contract.codes()
    section = contract.decoded(ENCODERS[form](codes))
    total, start = None, 0
    for components, exponent in codes.groups:
        columns = slice(start, start + components)
        multipliers = (as_tensor(codes.mantissas[columns]) << as_tensor(codes.shifts[columns])).double()
        left, right = (as_tensor(side[:, columns]).double() for side in (codes.left, codes.right))
        product = left @ (right * multipliers).T * 2.0**exponent
        total = product if total is None else total + product
        start += components
    base = np.zeros((contract.M, contract.N))
    assert torch.equal(as_tensor(section.rows(0, contract.M, base)), total)


@FORMS
def test_products_are_the_exact_integers(form: str) -> None:
    codes = contract.codes()
    base = np.zeros((contract.M, contract.N))
    found = contract.decoded(ENCODERS[form](codes)).rows(0, contract.M, base)
    for i, j in [(0, 0), (13, 99), (76, 129)]:
        groups, start = [], 0
        for components, exponent in codes.groups:
            members = range(start, start + components)
            total = sum(
                int(codes.mantissas[k]) * 2 ** int(codes.shifts[k]) * int(codes.left[i, k]) * int(codes.right[j, k])
                for k in members
            )
            groups.append(Fraction(total) * Fraction(2) ** exponent)
            start += components
        assert Fraction(float(found[i, j])) == Fraction(float(groups[0]) + float(groups[1]))


@FORMS
def test_a_group_that_could_be_inexact_is_refused(form: str) -> None:
    big, large = np.full((4, 4), 2**23), np.full(4, 200)
    codes = lowrank.Codes(big, big, large, np.zeros(4, dtype=np.int64), ((4, 0),))
    with pytest.raises(CorruptionError, match="exactly"):
        contract.decoded(ENCODERS[form](codes), (4, 4))


@pytest.mark.parametrize(("name", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_rounding_happens_once(name: str, digits: int) -> None:
    """Just above a tie of the narrow dtype, rounding through float32 first would fall onto the tie and then down."""
    dtype, tie = named_dtype(name), 1 + 2.0**-digits
    above = np.array([tie + 2.0**-40])
    assert above.astype(np.float32).astype(dtype).tolist() == [1]
    assert round_to(above, dtype).tolist() == [1 + 2.0 ** -(digits - 1)]
    assert round_to(np.array([tie]), dtype).tolist() == [1]
