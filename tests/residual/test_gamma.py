"""A multiple of the base."""

from __future__ import annotations

import numpy as np
import pytest

from erestore.errors import CorruptionError
from erestore.residual.codecs import gamma
from erestore.residual.dyadic import Dyadic


def test_the_value_is_the_base_times_the_number():
    encoded = gamma.encode(Dyadic(-5, -7))
    assert (encoded.codec, encoded.parts, encoded.size) == ("gamma", (), 0)
    section = gamma.Gamma.decode(encoded.parameters, [], (3, 2))
    base = np.array([[1.0, -2.0], [0.1, 3.0]])
    assert section.rows(1, 3, base).tolist() == [[value * -5 / 128 for value in row] for row in base.tolist()]
    assert section.factors() is None


@pytest.mark.parametrize(
    ("parameters", "parts"), [({}, []), ({"gamma": [1, 0]}, [b""]), ({"gamma": [1, 0], "x": 1}, [])]
)
def test_anything_else_is_refused(parameters, parts):
    with pytest.raises(CorruptionError):
        gamma.Gamma.decode(parameters, parts, (1, 1))
