import pytest
import torch
from checkpoints import assert_same, content, write_again
from safetensors import TensorSpec, safe_open
from safetensors.torch import save_file

from erestore.checkpoint.dtypes import DTYPES, describe, tensor_bytes, torch_dtype, torch_shape
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CheckpointError


def values(code: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return every bit pattern of a byte in turn, NaN and infinities included, as a tensor."""
    raw = torch.arange(tensor_bytes(code, shape), dtype=torch.int64).to(torch.uint8)
    if code == "BOOL":
        raw &= 1
    dtype = torch_dtype(code)
    flat = raw.view(dtype) if raw.numel() else torch.empty(0, dtype=dtype)
    return flat.reshape(torch_shape(code, shape))


def test_table_is_what_the_library_writes():
    with pytest.raises(Exception, match="Supported dtypes") as caught:
        TensorSpec(dtype="none", shape=[1], data_ptr=1, data_len=1)
    supported = str(caught.value).split("Supported dtypes: ")[1].split(", ")
    assert sorted(supported) == sorted(dtype.torch_name for dtype in DTYPES.values())


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_round_trips(tmp_path, code):
    shapes = [(3, 32), (0, 4), (64, 128)] if code == "F4" else [(), (1,), (5,), (0, 3), (3, 7), (64, 64), (2, 3, 2, 5)]
    tensors = {f"t{i}": values(code, shape) for i, shape in enumerate(shapes)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        with open_checkpoint(tmp_path / name) as checkpoint:
            for i, shape in enumerate(shapes):
                assert (checkpoint.tensors[f"t{i}"].dtype, checkpoint.tensors[f"t{i}"].shape) == (code, shape)
                found = checkpoint.read(f"t{i}")
                assert found.dtype == torch_dtype(code)
                assert content(found) == content(tensors[f"t{i}"])
        write_again(tmp_path / name, tmp_path / f"again-{name}")
        assert_same(tmp_path / name, tmp_path / f"again-{name}")
    if code not in ("F4", "F8_E8M0"):  # the library writes these two but has no reader for them
        with safe_open(tmp_path / "again-a.safetensors", framework="pt") as file:
            for name, tensor in tensors.items():
                assert content(file.get_tensor(name)) == content(tensor)
    loaded = torch.load(tmp_path / "again-a.pt", weights_only=True)
    for name, tensor in tensors.items():
        assert content(loaded[name]) == content(tensor)


def test_other_dtypes_are_refused_by_name(tmp_path):
    torch.save({"w": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"'w' is torch\.complex128"):
        open_checkpoint(tmp_path / "a.pt")


def test_describe_doubles_packed_pairs():
    assert describe(values("F4", (3, 8)), "w") == ("F4", (3, 8))


def test_packed_pairs_need_a_dimension():
    with pytest.raises(CheckpointError, match="'w'"):
        describe(values("F4", (2,)).reshape(()), "w")
