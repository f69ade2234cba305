"""Random masks against Philox written out, and against numbers that never change."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from blake3 import blake3

from erestore.merge.masks import kept

MASK = (1 << 64) - 1


def philox(key: tuple[int, int], counter: int) -> list[int]:
    """Philox4x64-10 of Salmon et al. 2011, written out."""
    x = [counter >> (64 * place) & MASK for place in range(4)]
    k = list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * x[0], 1 << 64)
        high1, low1 = divmod(0xCA5A826395121157 * x[2], 1 << 64)
        x = [high1 ^ x[1] ^ k[0], low1, high0 ^ x[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return x


def written_out(seed: int, label: str, tensor: str, density: Fraction, count: int) -> list[bool]:
    digest = blake3(f"{seed}\0{label}\0{tensor}".encode()).digest()
    key = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
    numbers = [number for block in range(count // 4 + 1) for number in philox(key, block + 1)]
    return [number < int(density * (1 << 64)) for number in numbers[:count]]


@pytest.mark.parametrize("seed", [0, 12345678901234567890])
@pytest.mark.parametrize("density", [Fraction(1, 10), Fraction(2, 3), Fraction(1, 10**30)])
def test_masks_are_those_of_philox(seed, density):
    wanted = written_out(seed, "task-ä", "layer.0", density, 203)
    assert kept(seed, "task-ä", "layer.0", density, 0, 203).tolist() == wanted


def test_masks_do_not_depend_on_where_they_are_cut():
    whole = kept(3, "a", "t", Fraction(1, 2), 0, 1000)
    for first, count in ((0, 1), (1, 5), (3, 1), (4, 4), (997, 3), (250, 0), (7, 600)):
        assert (kept(3, "a", "t", Fraction(1, 2), first, count) == whole[first : first + count]).all()


def test_these_masks_never_change():
    assert np.packbits(kept(0, "a", "t", Fraction(1, 2), 0, 64)).tobytes().hex() == "04797651f79521f7"
    assert np.packbits(kept(7, "b", "w", Fraction(1, 5), 1 << 33, 64)).tobytes().hex() == "0292042000214432"


def test_seed_variant_and_tensor_all_matter():
    masks = {
        kept(*key, Fraction(1, 2), 0, 256).tobytes()
        for key in ((0, "a", "t"), (1, "a", "t"), (0, "b", "t"), (0, "a", "u"))
    }
    assert len(masks) == 4


def test_the_share_is_the_density():
    assert abs(kept(0, "a", "t", Fraction(1, 10), 0, 1_000_000).mean() - 0.1) < 0.001
    assert kept(0, "a", "t", Fraction(1), 5, 9).all()
