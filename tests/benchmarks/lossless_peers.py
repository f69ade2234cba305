"""What packages of others make of two files of weights; run by lossless.py with the Python that has them, prints JSON.

`zipnn` takes bytes, and for a delta a second run of as many, which it XORs (``delta_compressed_type``); it has no words of 64
bits, so float64 is given to it as float32.

`deltatensors` has no lossless strategy: with ``sparse`` and no sparsity it keeps every difference, as float32; ``int4`` is
what it recommends. Which share of the elements it gives back to the bit is told. What it cannot take (tensors of very few
elements) is counted as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

NAMES = {torch.float32: "float32", torch.float64: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""As zipnn calls the words of bytes; it has none of 64 bits."""

LEAST = 8
"""Elements of the smallest tensor that deltatensors is given."""

Tensors = dict[str, torch.Tensor]


def bytes_of(tensors: list[torch.Tensor]) -> bytes:
    return b"".join(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors)


def zipnn(base: Tensors, tuned: Tensors, *, is_delta: bool) -> int:
    """Return the bytes of all tensors, those of a data type in one run."""
    from zipnn import ZipNN

    total = 0
    for dtype in {tensor.dtype for tensor in tuned.values()}:
        kind = {"bytearray_dtype": NAMES.get(dtype, "float32"), "input_format": "byte", "threads": 1}
        names = [name for name, tensor in tuned.items() if tensor.dtype == dtype]
        alike = [name for name in names if is_delta and name in base]
        alone = [name for name in names if name not in alike]
        if alike:
            delta = ZipNN(delta_compressed_type="byte", **kind)
            other = bytes_of([base[name] for name in alike])
            total += len(delta.compress(bytes_of([tuned[name] for name in alike]), delta_second_data=other))
        if alone and (content := bytes_of([tuned[name] for name in alone])):
            total += min(len(content), len(ZipNN(**kind).compress(content)))
    return total


def as_numpy_has_it(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def deltatensors(base: Tensors, tuned: Tensors, **options: object) -> tuple[int, float]:
    """Return the bytes of what has a base (other tensors as they are), and the share of elements given back exactly."""
    import deltatensors as package

    own = {
        name: tensor
        for name, tensor in tuned.items()
        if name in base and tensor.is_floating_point() and tensor.numel() >= LEAST
    }
    others = len(bytes_of([tensor for name, tensor in tuned.items() if name not in own]))
    parent = {name: as_numpy_has_it(base[name]) for name in own}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, "x.wdelta")
        package.save_delta(path, {name: as_numpy_has_it(own[name]) for name in own}, parent, use_gpu=False, **options)
        found = package.load_delta(path, parent)
        size = path.stat().st_size
    same = sum(int((torch.from_numpy(found[name]).to(own[name].dtype) == own[name]).sum()) for name in own)
    return size + others, same / sum(tensor.numel() for tensor in own.values())


def main() -> None:
    base, tuned = (load_file(path) for path in sys.argv[1:3])
    with contextlib.redirect_stdout(io.StringIO()):
        alone, delta = (zipnn(base, tuned, is_delta=is_delta) for is_delta in (False, True))
        every, exact = deltatensors(base, tuned, strategy="sparse", sparsity=0.0)
        few, close = deltatensors(base, tuned, strategy="int4")
    print(
        json.dumps(
            {
                "zipnn": [alone, 1],
                "zipnn of the XOR": [delta, 1],
                "deltatensors sparse 0": [every, exact],
                "deltatensors int4": [few, close],
            }
        )
    )


if __name__ == "__main__":
    main()
