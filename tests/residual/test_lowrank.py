"""Integer factors whose products are summed exactly."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from erestore.errors import CorruptionError
from erestore.residual import packing
from erestore.residual.codecs import lowrank
from erestore.residual.spectrum import decompose

M, N = 40, 28


def residual(rank, m=M, n=N, decay=0.5):
    generator = torch.Generator().manual_seed(6)
    left, right = (torch.randn(size, rank, generator=generator, dtype=torch.float64) for size in (m, n))
    return left * decay ** torch.arange(rank) @ right.T


SPIKES = torch.diag(0.9 ** torch.arange(11, dtype=torch.float64))


def quantised(delta, step, rank=None):
    found = decompose(delta)
    rank = found.rank if rank is None else rank
    return lowrank.quantise(delta, found.basis[:, :rank], found.singular_values[:rank], found.side, step)


def decode(encoded, shape, bands=None):
    parts = [part.content for part in encoded.parts][:bands]
    return lowrank.LowRank.decode(encoded.parameters, parts, shape)


def value(section):
    return section.rows(0, section.shape[0], torch.zeros(section.shape, dtype=torch.float64))


def exact(codes):
    """Return the value in fractions, each group rounded to float64 (it is exact) and groups added in floats."""
    total, start = None, 0
    for components, exponent in codes.groups:
        group = [
            [
                float(
                    sum(
                        int(codes.mantissas[k])
                        * 2 ** int(codes.shifts[k])
                        * int(codes.left[i, k])
                        * int(codes.right[j, k])
                        for k in range(start, start + components)
                    )
                    * Fraction(2) ** exponent
                )
                for j in range(len(codes.right))
            ]
            for i in range(len(codes.left))
        ]
        group = torch.tensor(group, dtype=torch.float64)
        total = group if total is None else total + group
        start += components
    return total


@pytest.mark.parametrize(("m", "n"), [(M, N), (N, M), (M, M)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_error_is_what_the_step_predicts(m, n, dtype):
    delta, step = residual(6, m, n).to(dtype), 0.01
    codes = quantised(delta, step)
    error = float(((value(decode(lowrank.encode(codes), (m, n))) - delta.double()) ** 2).sum())
    assert 0.3 < error / (codes.rank * (m + n) * step**2 / 12) < 3


def test_what_is_written_is_what_was_quantised_and_evaluates_exactly():
    codes = quantised(residual(11, decay=0.6), 0.02)
    encoded = lowrank.encode(codes)
    assert [part.band for part in encoded.parts] == [0, 1, 2, 3]
    section = decode(encoded, (M, N))
    for name in ("left", "right", "mantissas", "shifts"):
        assert torch.equal(getattr(section.codes, name).long(), getattr(codes, name).long())
    assert section.codes.groups == codes.groups
    assert torch.equal(value(section), exact(codes))
    left, right = section.factors()
    assert torch.allclose(left @ right.T, value(section), rtol=1e-13)


def test_components_that_cannot_share_a_group_get_their_own():
    """Single large changes at a fine step: sums of all components would not fit 53 bits."""
    codes = quantised(SPIKES, 2.0**-19.5)
    assert len(codes.groups) > 1
    assert sum(components for components, _ in codes.groups) == codes.rank
    found = value(decode(lowrank.encode(codes), SPIKES.shape))
    assert torch.equal(found, exact(codes))
    assert float((found - SPIKES).abs().max()) < 2.0**-14
    left, right = (side.long().abs().amax(dim=0).tolist() for side in (codes.left, codes.right))
    starts = [0]
    for components, _ in codes.groups:
        starts.append(starts[-1] + components)
    multipliers = [int(a) << int(s) for a, s in zip(codes.mantissas, codes.shifts, strict=True)]
    for start, stop in pairwise(starts):
        assert sum(multipliers[k] * left[k] * right[k] for k in range(start, stop)) < 2**53
        assert min(codes.shifts[start:stop]) == 0


@pytest.mark.parametrize("bands", [0, 1, 2, 3])
def test_a_prefix_of_the_bands_is_the_residual_at_a_lower_rank(bands):
    codes = quantised(SPIKES, 2.0**-19.5)
    assert len(codes.groups) > 1
    rank = (0, 2, 4, 8)[bands]
    section = decode(lowrank.encode(codes), SPIKES.shape, bands)
    assert section.codes.rank == rank
    kept, left = [], rank
    for components, exponent in codes.groups:
        if left > 0:
            kept.append((min(left, components), exponent))
        left -= components
    front = lowrank.Codes(
        codes.left[:, :rank], codes.right[:, :rank], codes.mantissas[:rank], codes.shifts[:rank], tuple(kept)
    )
    assert torch.equal(value(section), exact(front) if rank else torch.zeros_like(SPIKES))


def test_a_prefix_loses_what_the_singular_values_left_out_say():
    delta = residual(11, decay=0.5)
    encoded, sigma = lowrank.encode(quantised(delta, 1e-4)), decompose(delta).singular_values
    for bands, rank in enumerate((0, 2, 4, 8, 11)):
        error = float(((value(decode(encoded, (M, N), bands)) - delta) ** 2).sum())
        assert error == pytest.approx(float((sigma[rank:] ** 2).sum()), rel=1e-3, abs=1e-5)


def test_rows_are_those_of_the_whole():
    section = decode(lowrank.encode(quantised(residual(5), 0.01)), (M, N))
    base = torch.zeros(3, N, dtype=torch.float64)
    assert torch.equal(section.rows(17, 20, base), value(section)[17:20])


def test_components_without_codes_are_dropped():
    delta = residual(2) + 1e-9 * residual(9)
    codes = quantised(delta, 0.05, rank=9)
    assert 2 <= codes.rank < 9
    assert quantised(delta, 1e3).rank == 0
    assert value(decode(lowrank.encode(quantised(delta, 1e3)), (M, N))).abs().sum() == 0


def test_each_column_has_its_own_width():
    codes = quantised(residual(6, decay=0.1), 0.01)
    widths = packing.width_of(codes.left.long().abs().amax(dim=0)).tolist()
    assert len(set(widths)) > 2
    stored = sum(len(part.content) for part in lowrank.encode(codes).parts)
    right = packing.width_of(codes.right.long().abs().amax(dim=0)).tolist()
    sizes = sum(packing.packed_size(M, w) for w in widths) + sum(packing.packed_size(N, w) for w in right)
    assert stored == 4 * codes.rank + sizes


def test_bands_double():
    assert list(lowrank.bands(11)) == [(0, 2), (2, 4), (4, 8), (8, 11)]
    assert list(lowrank.bands(1)) == [(0, 1)]
    assert list(lowrank.bands(0)) == []


GOOD = {"rank": 1, "groups": [[1, 0]]}
PART = b"\1\0\0\x33" + bytes([130]) * 3 + bytes([131]) * 2


def test_the_smallest_section():
    assert value(lowrank.LowRank.decode(GOOD, [PART], (3, 2))).tolist() == [[6.0, 6.0]] * 3


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        ({"rank": 3, "groups": [[3, 0]]}, [PART]),
        ({"rank": 1, "groups": [[1, 901]]}, [PART]),
        ({"rank": 1, "groups": [[2, 0]]}, [PART]),
        ({"rank": 1, "groups": [[1, 0], [0, 0]]}, [PART]),
        ({"rank": 1, "groups": [[1, 0]], "x": 0}, [PART]),
        (GOOD, [PART, PART]),
        (GOOD, [PART[:-1]]),
        (GOOD, [PART + b"\0"]),
        (GOOD, [b"\0" + PART[1:]]),
        (GOOD, [PART[:2] + b"\x31" + PART[3:]]),
        (GOOD, [PART[:3] + b"\x36" + PART[4:]]),
        (GOOD, [b"\1\0"]),
    ],
)
def test_anything_else_is_refused(parameters, parts):
    with pytest.raises(CorruptionError):
        lowrank.LowRank.decode(parameters, parts, (3, 2))
