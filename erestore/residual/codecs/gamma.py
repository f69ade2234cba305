"""``gamma``: a multiple of the base's own tensor.

Decoupled weight decay (AdamW) leaves a residual of about ``-c * W``, a full-rank copy of the base that no low rank can
hold; one number removes it and stays closed under linear combination.

Parameters: ``gamma`` as ``[mantissa, exponent]``, a mantissa of at most 24 bits. No parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erestore.arrays import Array
from erestore.errors import CorruptionError
from erestore.residual import dyadic
from erestore.residual.codecs.abc import Codec, EncodedSection, Parameters, Section

GAMMA_BITS = 24


def encode(gamma: dyadic.Dyadic) -> EncodedSection:
    """Write the factor."""
    return EncodedSection(Gamma.name, {"gamma": list(gamma)}, ())


@dataclass(frozen=True)
class GammaSection(Section):
    """``factor * base``."""

    shape: tuple[int, int]
    factor: float

    def rows(self, start: int, stop: int, base: Array) -> Array:  # noqa: ARG002 - `base` is those rows
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        values: Array = base * self.factor
        return values


class Gamma(Codec):
    """See the module's docstring."""

    name = "gamma"

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> GammaSection:
        """Read a section."""
        if set(parameters) != {"gamma"} or parts:
            raise CorruptionError("A gamma section is malformed.")
        return GammaSection(shape, dyadic.read(parameters["gamma"], GAMMA_BITS).value)
