"""One tensor in a file of its own, read back by the library that its suffix promises."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from erestore.checkpoint.tensor_file import WRITERS, writer_for
from erestore.errors import UsageError

VALUES = [torch.arange(6, dtype=dtype).reshape(2, 3) for dtype in (torch.float32, torch.float16, torch.int64)]


def written(suffix: str, value: torch.Tensor, dtype: str) -> io.BytesIO:
    file = io.BytesIO()
    writer_for(Path(f"one{suffix}"))(file, "a.weight", dtype, value)
    file.seek(0)
    return file


def test_the_library_reads_it_back():
    for value, dtype in zip(VALUES, ("F32", "F16", "I64"), strict=True):
        assert torch.equal(load(written(".safetensors", value, dtype).getvalue())["a.weight"], value)
        assert torch.equal(torch.load(written(".pt", value, dtype)), value)
        array = np.load(written(".npy", value, dtype))
        assert array.dtype == value.numpy().dtype
        assert np.array_equal(array, value.numpy())


def test_a_scalar_and_a_view():
    assert np.load(written(".npy", torch.tensor(2.5), "F32")) == 2.5
    row = torch.zeros(1000, 1000)[3]
    assert written(".pth", row, "F32").getbuffer().nbytes < 10_000


def test_numpy_has_no_bfloat16():
    value = torch.ones(2, dtype=torch.bfloat16)
    assert torch.equal(torch.load(written(".pt", value, "BF16")), value)
    with pytest.raises(UsageError, match="numpy has no BF16") as refusal:
        written(".npy", value, "BF16")
    assert refusal.value.hint == "Name the file .safetensors or .pt."


def test_other_suffixes_are_refused():
    for name in ("one.npz", "one.txt", "one"):
        with pytest.raises(UsageError) as refusal:
            writer_for(Path(name))
        assert all(suffix in refusal.value.hint for suffix in WRITERS)
