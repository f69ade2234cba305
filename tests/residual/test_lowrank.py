"""Integer factors whose products are summed exactly: how they are found, and both forms in which they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from former_codes import encode_lowrank, width_of

from erestore.errors import CorruptionError
from erestore.residual import code_packing, factorise
from erestore.residual.codecs import lowrank, lowrank2
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.codecs.lowrank import Codes, LowRankSection
from erestore.residual.quantisation import quantise_runs, round_codes
from erestore.residual.spectrum import decompose

M, N = 40, 28


@dataclass(frozen=True)
class Form:
    """A codec, the encoder that it has or had, and the ranks of prefixes of a section of rank 11."""

    codec: type
    encode: object
    ranks: tuple[int, ...]

    def section(self, codes: Codes, shape=(M, N), bands=None) -> LowRankSection:
        encoded = self.encode(codes)
        parts = [part.content for part in encoded.parts][:bands]
        return self.codec.decode(encoded.parameters, parts, shape)


FORMS = {
    "lowrank": Form(lowrank.LowRank, encode_lowrank, (0, 2, 4, 8, 11)),
    "lowrank2": Form(lowrank2.LowRank2, lowrank2.encode, (0, 4, 11)),
}
BOTH = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def noise(m, n, seed=6):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def residual(rank, m=M, n=N, decay=0.5):
    return noise(m, rank) * decay ** torch.arange(rank) @ noise(n, rank, 7).T


SPIKES = torch.diag(0.9 ** torch.arange(11, dtype=torch.float64))
"""Single large changes: sums of all components at a fine step would not fit 53 bits."""
FINE = 2.0**-23


def quantised(delta, step, rank=None, rounding=round_codes):
    found = decompose(delta)
    rank = found.rank if rank is None else rank
    return factorise.quantise(delta, found.basis[:, :rank], found.singular_values[:rank], found.side, step, rounding)


def value(section):
    return torch.from_numpy(section.rows(0, section.shape[0], np.zeros(section.shape)))


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


def multiplied_by_torch(codes):
    """Return the value as torch sums each group: in another order than numpy, to the same bits."""
    total, start = torch.zeros(len(codes.left), len(codes.right), dtype=torch.float64), 0
    left, right = map(torch.from_numpy, codes.sides())
    for components, _ in codes.groups:
        total += left[:, start : start + components] @ right[:, start : start + components].T
        start += components
    return total


@pytest.mark.parametrize(("m", "n"), [(M, N), (N, M), (M, M)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_error_is_what_the_step_predicts(m, n, dtype):
    """About a twelfth of a squared step for every code, less what the fit makes up for."""
    delta, step = residual(6, m, n).to(dtype), 0.01
    codes = quantised(delta, step)
    assert codes.rank == 6
    error = float(((value(FORMS["lowrank2"].section(codes, (m, n))) - delta.double()) ** 2).sum())
    assert 0.4 < error / (codes.rank * (m + n) * step**2 / 12) < 1.6


@pytest.mark.parametrize("step", [0.3, 0.1, 0.03, 0.001])
@pytest.mark.parametrize("shape", [(90, 60), (60, 90)])
def test_fitting_the_long_side_to_the_short_one_is_never_worse(monkeypatch, step, shape):
    delta = noise(*shape) * 0.1 + noise(shape[0], 4, 8) @ noise(shape[1], 4, 9).T
    found = decompose(delta)

    def error():
        section = FORMS["lowrank2"].section(quantised(delta, step), shape)
        return float(((value(section) - delta) ** 2).sum())

    fitted = error()
    tall = delta if found.side == "right" else delta.T

    def projected(_tall, short, _dtype):
        """What would do if the short side were exact."""
        return (tall @ found.basis / step)[:, : short.shape[1]]

    monkeypatch.setattr(factorise, "_fit", projected)
    assert fitted < error()


def test_the_fit_makes_up_for_the_short_side_and_its_multipliers():
    """What is left is the rounding of the long side, and what no combination of the short side's codes has."""
    delta, step = residual(6, 400, 30), 0.05
    left, right = map(torch.from_numpy, quantised(delta, step).sides())
    best = delta @ torch.linalg.pinv(right.T)
    lost = float((left @ right.T - delta).square().sum())
    rounding, unreachable = (float(each.square().sum()) for each in ((left - best) @ right.T, best @ right.T - delta))
    assert lost == pytest.approx(rounding + unreachable, rel=1e-6)
    assert float((left - best).abs().max()) < 0.501


@BOTH
def test_what_is_written_is_what_was_quantised_and_evaluates_exactly(form):
    codes = quantised(residual(11, decay=0.6), 0.02)
    assert [part.band for part in form.encode(codes).parts] == list(range(len(form.ranks) - 1))
    section = form.section(codes)
    for name in ("left", "right", "mantissas", "shifts"):
        assert np.array_equal(getattr(section.codes, name), getattr(codes, name))
    assert section.codes.groups == codes.groups
    assert torch.equal(value(section), exact(codes))
    assert torch.equal(value(section), multiplied_by_torch(codes))
    left, right = map(torch.from_numpy, section.factors())
    assert torch.allclose(left @ right.T, value(section), rtol=1e-13)


@BOTH
def test_components_that_cannot_share_a_group_get_their_own(form):
    codes = quantised(SPIKES, FINE)
    assert len(codes.groups) > 1
    assert sum(components for components, _ in codes.groups) == codes.rank
    found = value(form.section(codes, SPIKES.shape))
    assert torch.equal(found, exact(codes))
    assert torch.equal(found, multiplied_by_torch(codes))
    assert float((found - SPIKES).abs().max()) < 2.0**-22
    left, right = (abs(side.astype(int)).max(axis=0).tolist() for side in (codes.left, codes.right))
    starts = [0]
    for components, _ in codes.groups:
        starts.append(starts[-1] + components)
    multipliers = [int(a) << int(s) for a, s in zip(codes.mantissas, codes.shifts, strict=True)]
    for start, stop in pairwise(starts):
        assert sum(multipliers[k] * left[k] * right[k] for k in range(start, stop)) < 2**53
        assert min(codes.shifts[start:stop]) == 0


@BOTH
def test_a_prefix_of_the_bands_is_the_residual_at_a_lower_rank(form):
    codes = quantised(SPIKES, FINE)
    assert len(codes.groups) > 1
    for bands, rank in enumerate(form.ranks):
        section = form.section(codes, SPIKES.shape, bands)
        assert section.codes.rank == rank
        kept, left = [], rank
        for components, exponent in codes.groups:
            if left > 0:
                kept.append((min(left, components), exponent))
            left -= components
        front = Codes(
            codes.left[:, :rank], codes.right[:, :rank], codes.mantissas[:rank], codes.shifts[:rank], tuple(kept)
        )
        assert torch.equal(value(section), exact(front) if rank else torch.zeros_like(SPIKES))


@BOTH
def test_a_prefix_loses_what_the_singular_values_left_out_say(form):
    delta = residual(11, decay=0.5)
    codes, sigma = quantised(delta, 1e-4), decompose(delta).singular_values
    for bands, rank in enumerate(form.ranks):
        error = float(((value(form.section(codes, bands=bands)) - delta) ** 2).sum())
        assert error == pytest.approx(float((sigma[rank:] ** 2).sum()), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_errors_of_prefixes_are_those_that_decoding_gives(dtype):
    delta = noise(120, 70).to(dtype)
    codes = quantised(delta, 0.5)
    assert codes.rank == 70
    left, right = map(torch.from_numpy, codes.sides())
    predicted = factorise.prefix_errors(codes, (delta - left @ right.T).to(dtype))
    assert list(predicted) == [0, 1, 2, 3]
    for band, error in predicted.items():
        found = value(FORMS["lowrank2"].section(codes, (120, 70), band))
        assert error == pytest.approx(float(((found - delta) ** 2).sum()), rel=1e-5)


@BOTH
def test_rows_are_those_of_the_whole(form):
    section = form.section(quantised(residual(5), 0.01))
    base = np.zeros((3, N))
    assert np.array_equal(section.rows(17, 20, base), value(section)[17:20])


@BOTH
def test_components_without_codes_are_dropped(form):
    delta = residual(2) + 1e-9 * residual(9)
    codes = quantised(delta, 0.05, rank=9)
    assert codes.rank == 2
    assert all(bool((side != 0).any(axis=0).all()) for side in (codes.left, codes.right))
    assert quantised(delta, 1e3).rank == 0
    assert value(form.section(quantised(delta, 1e3))).abs().sum() == 0


def test_columns_that_vanish_on_the_long_side_only_are_dropped_too(monkeypatch):
    delta = residual(3)
    monkeypatch.setattr(
        factorise, "_fit", lambda tall, short, dtype: torch.eye(len(tall), short.shape[1])[:, [0, 2, 2]] * 9
    )
    codes = quantised(
        delta, 0.01, rounding=lambda values: torch.round(values).to(torch.int32).mul_(values[:, 2:3] != 9)
    )
    assert codes.rank == 1
    assert codes.right.shape == (N, 1)
    assert codes.groups[0][0] == 1


def test_a_dead_zone_in_factors_takes_fewer_bytes_at_equal_error():
    delta = residual(M, 300, N, decay=0.9)

    def size_and_error(step: float, rounding) -> tuple[int, float]:
        codes = quantised(delta, step, rounding=rounding)
        left, right = (torch.from_numpy(side) for side in codes.sides())
        stored = sum(len(part.content) for part in lowrank2.encode(codes).parts)
        return stored, float((delta - left @ right.T).square().sum())

    nearest, dead = size_and_error(0.3, round_codes), size_and_error(0.27, quantise_runs)
    assert dead[0] < nearest[0]
    assert dead[1] < nearest[1]


def test_multipliers_have_six_bits():
    codes = quantised(residual(11, decay=0.7), 0.02)
    assert set(codes.mantissas.tolist()) <= set(range(2**5, 2**6))


def test_each_packed_column_has_its_own_width():
    codes = quantised(residual(6, decay=0.1), 0.01)
    widths = width_of(abs(codes.left.astype(int)).max(axis=0)).tolist()
    assert len(set(widths)) > 2
    stored = sum(len(part.content) for part in encode_lowrank(codes).parts)
    right = width_of(abs(codes.right.astype(int)).max(axis=0)).tolist()
    sizes = sum(code_packing.packed_size(M, w) for w in widths) + sum(code_packing.packed_size(N, w) for w in right)
    assert stored == 4 * codes.rank + sizes


@pytest.mark.parametrize(("step", "width"), [(2.0**-14, 2), (2.0**-16, 4)])
def test_codes_take_two_bytes_or_four_and_parts_say_where_runs_are(step, width):
    parts = lowrank2.encode(quantised(torch.eye(6, 9, dtype=torch.float64), step)).parts
    assert [part.content[0] for part in parts] == [width, width]
    assert [part.layout for part in parts] == [
        ((1, 1, 9), (width, 4, 6), (width, 4, 9)),
        ((1, 1, 5), (width, 2, 6), (width, 2, 9)),
    ]
    for part in parts:
        assert sum(group.size for group in part.layout) == len(part.content)


def test_bands_double_or_grow_fourfold():
    assert list(lowrank.bands(11)) == [(0, 2), (2, 4), (4, 8), (8, 11)]
    assert list(lowrank2.bands(70)) == [(0, 4), (4, 16), (16, 64), (64, 70)]
    for bands in (lowrank.bands, lowrank2.bands):
        assert list(bands(1)) == [(0, 1)]
        assert list(bands(0)) == []


GOOD = {"rank": 1, "groups": [[1, 0]]}
PACKED = b"\1\0\0\x33" + bytes([130]) * 3 + bytes([131]) * 2
PLAIN = b"\2\1\0" + b"\2\0" * 3 + b"\3\0" * 2
WIDE = b"\4\1\0" + b"\2\0\0\0" * 3 + b"\3\0\0\0" * 2


@pytest.mark.parametrize(("codec", "part"), [("lowrank", PACKED), ("lowrank2", PLAIN), ("lowrank2", WIDE)])
def test_the_smallest_section(codec, part):
    assert value(FORMS[codec].codec.decode(GOOD, [part], (3, 2))).tolist() == [[6.0, 6.0]] * 3


@pytest.mark.parametrize(
    ("form", "part"), [(FORMS["lowrank"], PACKED), (FORMS["lowrank2"], PLAIN)], ids=["lowrank", "lowrank2"]
)
@pytest.mark.parametrize(
    "parameters",
    [
        {"rank": 3, "groups": [[3, 0]]},
        {"rank": 1, "groups": [[1, 901]]},
        {"rank": 1, "groups": [[2, 0]]},
        {"rank": 1, "groups": [[1, 0], [0, 0]]},
        {"rank": 1, "groups": [[1, 0]], "x": 0},
        {"rank": True, "groups": [[1, 0]]},
    ],
)
def test_other_parameters_are_refused(form, part, parameters):
    with pytest.raises(CorruptionError):
        form.codec.decode(parameters, [part], (3, 2))


@pytest.mark.parametrize(
    ("codec", "parts"),
    [
        *(("lowrank", parts) for parts in (
            [PACKED, PACKED],
            [PACKED[:-1]],
            [PACKED + b"\0"],
            [b"\0" + PACKED[1:]],
            [PACKED[:2] + b"\x31" + PACKED[3:]],
            [PACKED[:3] + b"\x36" + PACKED[4:]],
            [b"\1\0"],
        )),
        *(("lowrank2", parts) for parts in (
            [PLAIN, PLAIN],
            [PLAIN[:-1]],
            [PLAIN + b"\0"],
            [b"\4" + PLAIN[1:]],
            [b"\1" + PLAIN[1:]],
            [b"\0" + PLAIN[1:]],
            [b"\2\0" + PLAIN[2:]],
            [b"\2\1\x31" + PLAIN[3:]],
            [b"\2"],
            [b""],
        )),
    ],
)  # fmt: skip
def test_other_parts_are_refused(codec, parts):
    with pytest.raises(CorruptionError):
        FORMS[codec].codec.decode(GOOD, parts, (3, 2))


@pytest.mark.parametrize("codes", [2**31 - 1, -(2**31)])
def test_a_group_that_might_be_rounded_is_refused(codes):
    part = b"\4\1\0" + codes.to_bytes(4, "little", signed=True) * 2
    with pytest.raises(CorruptionError, match="exactly"):
        lowrank2.LowRank2.decode(GOOD, [part], (1, 1))


def test_every_shift_up_to_48_is_read():
    part = b"\2\1\x30" + b"\1\0" * 2
    assert value(lowrank2.LowRank2.decode(GOOD, [part], (1, 1))).tolist() == [[2.0**48]]


def test_sections_say_what_they_are():
    encoded = lowrank2.encode(quantised(residual(2), 0.1))
    assert isinstance(encoded, EncodedSection)
    assert encoded.codec == "lowrank2"
    assert set(encoded.parameters) == {"rank", "groups"}
