"""Whole tensors of several variants, combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from erestore.errors import CorruptionError
from erestore.objects.tensors import TensorWriter, content_digest
from erestore.records import Base, Layout, LayoutFile, LayoutTensor, Manifest, Part, TensorRef, WholeTensor
from erestore.storage.memory import MemoryStorage
from erestore.storage.objects import ObjectStore
from erestore.variant.variant import Variant


def combined(
    values: Sequence[float], coefficients: Sequence[str], dtype: str, shape: tuple[int, ...] = ()
) -> np.ndarray:
    """Combine scalars (or what claims to be of another shape), each float32, into a tensor of a dtype."""
    objects = ObjectStore(MemoryStorage())
    parts = []
    for value, coefficient in zip(values, coefficients, strict=True):
        content = memoryview(np.array(value, "<f4").tobytes())
        with TensorWriter(objects, align=1) as writer:
            data = TensorRef("", *writer.add(content, "F32"))
            data = data._replace(oid=writer.finish().oid)
        parts.append(
            Part(Fraction(coefficient), WholeTensor("F32", shape, content_digest("F32", shape, content), data))
        )
    base = objects.put_record("base", Base({}).to_record()).oid
    layout = Layout(
        format="safetensors",
        is_directory=False,
        files=(LayoutFile("a.safetensors", ("s",), {}),),
        tensors={"s": LayoutTensor("s", dtype, shape)},
        ties=(),
        side_files={},
        structure=None,
    )
    manifest = Manifest(base, (), objects.put_record("layout", layout.to_record()).oid, dense={"s": tuple(parts)})
    return Variant(objects, replace(manifest)).rounded("s", dtype, shape)


@pytest.mark.parametrize(
    ("values", "coefficients"),
    [([-0.0], ["1"]), ([-0.0, -0.0], ["1/2", "1/2"]), ([0.0], ["-1"]), ([-0.0, 0.0], ["1/2", "1/2"])],
)
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_a_sum_starts_from_zero_so_that_none_is_minus_zero(values, coefficients, dtype) -> None:
    found = combined(values, coefficients, dtype)
    assert found.shape == ()
    assert not np.signbit(found.astype(np.float64))


def test_a_scalar_is_combined_and_rounded_once() -> None:
    assert float(combined([1.0, 3.0], ["1/2", "1/2"], "BF16")) == 2.0


def test_a_shape_that_the_parts_do_not_fill_is_refused_before_anything_is_made_for_it() -> None:
    with pytest.raises(CorruptionError, match="size"):
        combined([1.0, 2.0], ["1/2", "1/2"], "F32", (1 << 40, 1 << 10))
