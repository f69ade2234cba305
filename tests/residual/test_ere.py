"""The ere codec: against a reimplementation of the paper, bytes, and extremes."""

import numpy as np
import pytest
import torch
from ere_reference import allocate, relative_error
from families import rxnfp

from erestore.errors import CorruptionError
from erestore.residual import allocation
from erestore.residual.codecs import ere
from erestore.residual.spectrum import as_matrix, singular_values
from erestore.residual.stiefel import project_stiefel


def power_law(shape, exponent, seed, bulk=0.0):
    """A residual with singular values k**-exponent and, on top, independent noise."""
    generator = torch.Generator().manual_seed(seed)
    m, n = shape[0], int(np.prod(shape[1:]))
    k = min(m, n)
    left, right = (torch.linalg.qr(torch.randn(size, k, generator=generator).double())[0] for size in (m, n))
    values = torch.arange(1, k + 1, dtype=torch.float64) ** -exponent
    noise = bulk * torch.randn(m, n, generator=generator).double() / (m * n) ** 0.5
    return ((left * values) @ right.T + noise).reshape(shape)


@pytest.fixture(scope="module")
def residuals():
    """Attention, feed-forward, embedding, convolution, one row, exactly low rank, rank one, untouched."""
    low = power_law((40, 4), 0.5, 8) @ power_law((4, 56), 0.5, 9)
    deltas = [
        power_law((64, 64), 0.6, 0, bulk=0.3),
        1e-3 * power_law((64, 64), 1.0, 1),
        power_law((64, 128), 0.3, 2, bulk=0.5),
        0.05 * power_law((128, 64), 1.5, 3),
        power_law((200, 32), 0.8, 4),
        power_law((16, 8, 3, 3), 0.7, 5, bulk=0.1),
        power_law((1, 24), 1.0, 6),
        low,
        torch.outer(torch.arange(1.0, 21), torch.linspace(-1, 2, 12)).double() / 100,
        torch.zeros(24, 24, dtype=torch.float64),
    ]
    return [as_matrix(delta) for delta in deltas]


def encoded_error(deltas, ranks, bits):
    error = energy = 0.0
    for delta, rank in zip(deltas, ranks, strict=True):
        u, d, v = ere.decode(ere.encode(delta, rank, bits))
        error += float(((delta - (u * d) @ v.T) ** 2).sum())
        energy += float((delta**2).sum())
    return error / energy


@pytest.mark.parametrize(
    ("rank", "alpha", "bits"),
    [(2, 0.5, 4), (4, 0.0, 4), (8, 0.5, 4), (8, 1.0, 4), (16, 0.25, 2), (9, 0.5, 3), (200, 0.5, 8)],
)
def test_agrees_with_the_paper_written_down_again(residuals, rank, alpha, bits):
    # The two routes find singular vectors by different algorithms, so they differ in sign. That cannot show: rounding
    # to nearest (ties to even) on a symmetric grid commutes with a change of sign, the polar factor does so column by
    # column, and u vᵀ of a component has no sign. The singular values here are distinct, so nothing else is free.
    shapes = [tuple(delta.shape) for delta in residuals]
    ranks = allocation.ere([singular_values(delta).numpy() for delta in residuals], shapes, rank, alpha)
    arrays = [delta.numpy() for delta in residuals]
    assert ranks == allocate(arrays, rank, alpha)
    assert encoded_error(residuals, ranks, bits) == pytest.approx(relative_error(arrays, ranks, bits), rel=1e-6)


@pytest.mark.models
@pytest.mark.parametrize("fine_tune", ["bert_ft", "bert_ft_10k_25s"])
def test_agrees_on_a_real_fine_tune(fine_tune):
    def load(path):
        state = torch.load(path / "pytorch_model.bin", map_location="cpu", weights_only=True)
        return {name.removeprefix("bert."): value.double() for name, value in state.items()}

    paths = rxnfp()
    base, tuned = load(paths["bert_pretrained"]), load(paths[fine_tune])
    names = ("embeddings", "encoder.layer.0.", "encoder.layer.11.", "pooler")
    deltas = [tuned[n] - base[n] for n in base if n.startswith(names) and base[n].ndim == 2]
    assert len(deltas) == 16
    spectra = [singular_values(delta).numpy() for delta in deltas]
    ranks = allocation.ere(spectra, [tuple(delta.shape) for delta in deltas], 24)
    arrays = [delta.numpy() for delta in deltas]
    assert ranks == allocate(arrays, 24, 0.5)
    assert encoded_error(deltas, ranks, 4) == pytest.approx(relative_error(arrays, ranks, 4), rel=1e-6)


@pytest.mark.parametrize("bits", ere.BITS)
@pytest.mark.parametrize("shape", [(7, 5), (3, 11), (1, 9), (9, 1), (1, 1), (0, 4)])
def test_bytes_round_trip(bits, shape):
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    for rank in range(min(shape) + 2):
        codes = ere.encode(delta, rank, bits)
        content = ere.to_bytes(codes)
        assert codes.rank == min(rank, *shape)
        assert len(content) == ere.size(shape, codes.rank, bits)
        back = ere.from_bytes(content, shape, codes.rank, bits)
        assert torch.equal(back.u_codes, codes.u_codes)
        assert torch.equal(back.v_codes, codes.v_codes)
        for name in ("u_scales", "v_scales", "d"):
            assert np.array_equal(getattr(back, name), getattr(codes, name))
        assert (back.exponent, back.bits) == (codes.exponent, bits)
        for wrong in (content + b"\0", content[:-1]):
            if wrong != content:
                with pytest.raises(CorruptionError):
                    ere.from_bytes(wrong, shape, codes.rank, bits)


def test_packing_in_batches(monkeypatch):
    delta = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    whole = {bits: ere.to_bytes(ere.encode(delta, 13, bits)) for bits in ere.BITS}
    monkeypatch.setattr(ere, "_CODES_AT_ONCE", 64)
    for bits in ere.BITS:
        codes = ere.encode(delta, 13, bits)
        assert ere.to_bytes(codes) == whole[bits]
        assert torch.equal(ere.from_bytes(whole[bits], (50, 40), 13, bits).u_codes, codes.u_codes)


def test_layout_of_bytes():
    u = torch.tensor([[1, -1], [0, 1], [-1, 0]], dtype=torch.int8)
    v = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    half = np.array([1.0, 0.5], np.float16)
    content = ere.to_bytes(ere.EreCodes(u, v, half, half, np.array([2.0, 1.0], np.float16), -3, 2))
    # 1.0 = 0x3c00, 0.5 = 0x3800, 2.0 = 0x4000; -3 = 0xfffd; codes plus one: 2 1 0 0 2 1 and 2 2 2 0.
    assert content.hex() == "003c0038" * 2 + "fdff" + "0040003c" + "9090" + "a8"


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[:-1] + bytes([b[-1] | 0x01]),  # padding
        lambda b: b[:14] + b"\xff" + b[15:],  # a code beyond the grid
        lambda b: b"\x00\x7c" + b[2:],  # an infinite scale
        lambda b: b[:10] + b"\x00\x7e" + b[12:],  # a singular value that is no number
        lambda b: b[:8] + b"\xff\x7f" + b[10:],  # a singular value out of range
    ],
)
def test_damage_is_named(change):
    shape, rank, bits = (3, 3), 2, 3
    content = ere.to_bytes(ere.encode(torch.randn(shape, generator=torch.Generator().manual_seed(1)), rank, bits))
    ere.from_bytes(content, shape, rank, bits)
    with pytest.raises(CorruptionError):
        ere.from_bytes(change(content), shape, rank, bits)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"rank": 1},
        {"rank": True, "bits": 4},
        {"rank": -1, "bits": 4},
        {"rank": 1, "bits": 9},
        {"rank": 3, "bits": 4},
        {"rank": 1, "bits": 4, "x": 0},
    ],
)
def test_parameters_are_checked(parameters):
    with pytest.raises(CorruptionError):
        ere.Ere.decode(parameters, [bytes(10)], (2, 2))


def test_section(residuals):
    delta = residuals[2]
    section = ere.encode_section(delta, 12)
    assert section.codec == "ere"
    assert dict(section.parameters) == {"rank": 12, "bits": 4}
    read = ere.Ere.decode(section.parameters, [part.content for part in section.parts], tuple(delta.shape))
    u, d, v = ere.decode(ere.encode(delta, 12))
    left, right = map(torch.from_numpy, read.factors())
    assert torch.allclose(left @ right.T, (u * d) @ v.T, rtol=0, atol=1e-12)
    base = np.zeros((7, delta.shape[1]))
    assert torch.allclose(torch.from_numpy(read.rows(5, 12, base)), (left @ right.T)[5:12], rtol=0, atol=1e-12)
    assert not ere.Ere.reproducible


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e-8, 1.0, 1e8, 1e30, 1e200])
def test_singular_values_keep_half_precision_at_any_scale(scale):
    delta = power_law((20, 30), 4.0, 3) * scale
    codes = ere.encode(delta, 20, 8)
    _, d, _ = ere.decode(codes)
    assert torch.allclose(d / scale, torch.arange(1, 21).double() ** -4.0, rtol=2**-11 + 1e-6, atol=0)


def test_more_bits_err_less(residuals):
    ranks = [min(8, *delta.shape) for delta in residuals]
    errors = [encoded_error(residuals, ranks, bits) for bits in ere.BITS]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2


def test_projection_lowers_the_error_at_four_bits(residuals):
    delta = residuals[2]
    codes = ere.encode(delta, 32)
    u, d, v = ere.decode(codes)
    raw_u = ere.dequantise(codes.u_codes, codes.u_scales, 4)
    raw_v = ere.dequantise(codes.v_codes, codes.v_scales, 4)
    assert ((delta - (u * d) @ v.T) ** 2).sum() < ((delta - (raw_u * d) @ raw_v.T) ** 2).sum()


@pytest.mark.parametrize("kind", ["generic", "dependent", "square", "empty"])
def test_projection_is_the_nearest_orthonormal_matrix(kind):
    x = torch.randn(12, 12 if kind == "square" else 5, generator=torch.Generator().manual_seed(2)).double()
    if kind == "dependent":
        x[:, 3] = x[:, 1]
    if kind == "empty":
        x = x[:, :0]
    nearest = project_stiefel(x)
    assert torch.allclose(nearest.T @ nearest, torch.eye(x.shape[1], dtype=torch.float64), atol=1e-10)
    # ‖X - Q‖² = ‖X‖² + r - 2 tr(QᵀX), and the largest trace is the sum of the singular values.
    assert float((nearest * x).sum()) == pytest.approx(float(torch.linalg.svdvals(x).sum()), rel=1e-9)


@pytest.mark.parametrize(("peak", "code"), [(0.3, 7), (1.0, 7), (8e-8, 7), (1e-9, 0), (0.0, 0)])
def test_largest_magnitude_takes_the_largest_code(peak, code):
    # 8e-8 becomes 6e-8 in half precision, 1e-9 becomes 0.
    x = torch.zeros(6, 1)
    x[2], x[4] = -peak, peak / 2
    codes, scales = ere.quantise_columns(x, 4)
    assert codes[2, 0] == -code
    assert float(ere.dequantise(codes, scales, 4)[2]) == -float(scales[0])
