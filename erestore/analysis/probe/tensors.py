"""A variant's tensors for probes: what a fine-tune made of the base's, whole or as what it changed, one tensor at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal, NamedTuple, Self

import torch

from erestore.arrays import Array, matrix_shape, without_warnings
from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.skeleton import state_dict_names
from erestore.encoding.profile import has_factors
from erestore.encoding.target import LoadedTarget, Target, fits, is_of_state_dict
from erestore.objects.structure import read_structure
from erestore.records import names_inside
from erestore.residual.codecs import ere
from erestore.residual.spectrum import Decomposition, decompose, singular_values
from erestore.spool import TensorSpool
from erestore.variant.variant import LinearTensor, Variant

Part = Literal["weights", "residual"]
"""What is probed of a fine-tuned model: all of its weights, or what it changed of the base's."""
PARTS: tuple[Part, ...] = ("weights", "residual")


class Norms(NamedTuple):
    """Squared norms of one tensor: of the variant's weights, of what it changed, and of the base's."""

    weights: float
    residual: float
    base: float


class Decompositions:
    """Spectra of tensors, kept in memory, and their singular bases, kept outside it. A context manager; for several threads.

    Parameters
    ----------
    with_bases : bool
        Whether whoever asks for a spectrum is going to ask for the basis too, which is computed with it at little more cost.
    """

    def __init__(self, *, with_bases: bool) -> None:
        self._with_bases = with_bases
        self._bases = TensorSpool()
        self._values: dict[str, torch.Tensor] = {}
        self._sides: dict[str, Literal["left", "right"]] = {}
        self._lock = threading.Lock()

    def values(self, name: str, matrix: torch.Tensor) -> torch.Tensor:
        """Return all singular values of the matrix called `name`, float64, descending."""
        if name not in self._values:
            self._values[name] = self.of(name, matrix).singular_values if self._with_bases else singular_values(matrix)
        return self._values[name]

    def of(self, name: str, matrix: torch.Tensor) -> Decomposition:
        """Return the decomposition of the matrix called `name`, its basis in float32."""
        if name not in self._bases:
            decomposition = decompose(matrix)
            with self._lock:
                self._values[name], self._sides[name] = decomposition.singular_values, decomposition.side
            self._bases.put(name, decomposition.basis[:, : decomposition.rank].to(torch.float32))
        return Decomposition(matrix, self._values[name], self._bases.get(name), self._sides[name])

    def __enter__(self) -> Self:
        self._bases.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._bases.__exit__(*details)


@dataclass(frozen=True, eq=False)
class ProbedTensor:
    """One tensor that base and variant share, in memory.

    Attributes
    ----------
    loaded : LoadedTarget
        The variant's value, and the base's as its parent.
    decompositions : Decompositions
    """

    loaded: LoadedTarget
    decompositions: Decompositions
    _encoded: dict[tuple[int, int], ere.EreCodes] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The base's name of the tensor."""
        return self.loaded.target.key

    @property
    def shape(self) -> tuple[int, int]:
        """Rows that base and variant share, and columns."""
        return self.loaded.shape

    def blocks(self, part: Part) -> Iterator[tuple[int, int, Array]]:
        """Yield all shared rows in order: first, last, and their values in float64."""
        for block in self.loaded.blocks():
            yield block.start, block.stop, block.original if part == "weights" else block.original - block.parent

    def norms(self) -> Norms | None:
        """Return squared norms; None where there are none: a value is not finite, or beyond what float32 holds."""
        if not self.loaded.is_finite():
            return None
        weights = residual = base = 0.0
        with without_warnings():
            for block in self.loaded.blocks():
                weights += float((block.original**2).sum())
                residual += float(((block.original - block.parent) ** 2).sum())
                base += float((block.parent**2).sum())
        norms = Norms(weights, residual, base)
        is_held = max(norms) <= torch.finfo(torch.float32).max
        return norms if is_held else None

    @cached_property
    def _residual(self) -> torch.Tensor:
        return self.loaded.delta()

    @cached_property
    def _weights(self) -> torch.Tensor:
        weights = self.loaded.original[: self.shape[0]]
        return weights.to(torch.float32) if weights.element_size() < 4 else weights

    def matrix(self, part: Part) -> torch.Tensor:
        """Return all shared rows; the residual is in float32, weights are at least."""
        return self._weights if part == "weights" else self._residual

    def singular_values(self, part: Part) -> torch.Tensor:
        """Return all singular values of a part, float64, descending."""
        return self.decompositions.values(self._name(part), self.matrix(part))

    def decomposition(self, part: Part) -> Decomposition:
        """Return the decomposition of a part."""
        return self.decompositions.of(self._name(part), self.matrix(part))

    def encoded(self, rank: int, bits: int) -> ere.EreCodes:
        """Return the residual in the codes of the codec ``ere``."""
        if (rank, bits) not in self._encoded:
            self._encoded[rank, bits] = ere.encode(self._residual, rank, bits, self.decomposition("residual"))
        return self._encoded[rank, bits]

    def _name(self, part: Part) -> str:
        return f"{part}\0{self.key}"


@dataclass(frozen=True, eq=False)
class ProbedVariant:
    """A variant's tensors that a probe may alter: those that its base has too.

    Attributes
    ----------
    variant : Variant
        With all its parts open.
    targets : tuple of Target
    decompositions : Decompositions
    """

    variant: Variant
    targets: tuple[Target, ...]
    decompositions: Decompositions

    @classmethod
    def open(cls, variant: Variant, pattern: str | None, decompositions: Decompositions) -> Self:
        """Choose the tensors of a variant.

        Parameters
        ----------
        variant : Variant
        pattern : str or None
            Which names, the variant's own or the base's, are probed; all by default.
        decompositions : Decompositions
        """
        variant.open_parts()
        return cls(variant, tuple(_targets(variant, pattern)), decompositions)

    def without(self, keys: Collection[str]) -> Self:
        """Return the same with fewer tensors."""
        targets = tuple(target for target in self.targets if target.key not in keys)
        return type(self)(self.variant, targets, self.decompositions)

    def load(self, target: Target) -> ProbedTensor:
        """Read one tensor."""
        return self.around(target, self.variant.tensor(target.name))

    def around(self, target: Target, value: torch.Tensor) -> ProbedTensor:
        """Return one tensor whose value in the variant is known; it is not copied."""
        base = self.variant.base_tensor(target.key).reshape(matrix_shape(self.variant.base[target.key].shape))
        loaded = LoadedTarget(
            target, value.reshape(matrix_shape(target.info.shape)), LinearTensor(base[: target.shared], ())
        )
        return ProbedTensor(loaded, self.decompositions)


def is_matrix(target: Target) -> bool:
    """Return whether a tensor has a rank to speak of."""
    return min(target.matrix) > 1


def is_encoded(target: Target) -> bool:
    """Return whether the codec ``ere`` gives a tensor factors; it keeps others as they are."""
    return has_factors(target.matrix)


def _targets(variant: Variant, pattern: str | None) -> Iterator[Target]:
    structure = read_structure(variant.objects, variant.layout)
    inside, entries = names_inside(variant.layout.files), state_dict_names(structure)
    keys = set()
    for name, tensor in variant.layout.tensors.items():
        info = TensorInfo(name, tensor.dtype, tensor.shape)
        is_weight = is_of_state_dict(inside.get(name, name), structure, entries)
        if not is_weight or tensor.key in keys or tensor.key not in variant.base or not math.prod(tensor.shape):
            continue
        keys.add(tensor.key)
        base = variant.base[tensor.key]
        if fits(info, base) and (pattern is None or any(fnmatchcase(text, pattern) for text in (name, tensor.key))):
            shared = min(matrix_shape(tensor.shape)[0], matrix_shape(base.shape)[0])
            yield Target(tensor.key, name, info, shared)
