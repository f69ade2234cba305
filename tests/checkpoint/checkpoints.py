"""Writing an opened checkpoint again, as a checkout would, and comparing two of them bit for bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.open import open_checkpoint
from erestore.checkpoint.write import write_checkpoint
from erestore.records import Layout, LayoutFile, LayoutTensor


def layout_of(checkpoint: Checkpoint) -> Layout:
    return Layout(
        format=checkpoint.format,
        is_directory=checkpoint.is_directory,
        files=tuple(
            LayoutFile(file.name, file.tensors, dict(file.metadata), file.module, file.format)
            for file in checkpoint.files
        ),
        tensors={name: LayoutTensor(name, info.dtype, info.shape) for name, info in checkpoint.tensors.items()},
        ties=checkpoint.ties,
        side_files=dict.fromkeys(checkpoint.side_files, "oid"),
    )


def content(tensor: torch.Tensor) -> bytes:
    """Return a tensor's bytes; 0-dim and empty ones have no byte view, so it is flattened first."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def blocks(tensor: torch.Tensor, size: int = 1 << 20) -> Iterator[memoryview]:
    view = memoryview(content(tensor))
    for start in range(0, len(view), size):
        yield view[start : start + size]


def write_again(source: Path, target: Path, **options: Any) -> None:
    with open_checkpoint(source) as checkpoint:
        write_checkpoint(
            target,
            layout_of(checkpoint),
            lambda name: blocks(checkpoint.read(name)),
            lambda name: [checkpoint.side_files[name].read_bytes()],
            structure=checkpoint.structure,
            **options,
        )


def assert_same(first: Path, second: Path) -> None:
    with open_checkpoint(first) as one, open_checkpoint(second) as two:
        assert one.format == two.format
        assert one.tensors == two.tensors
        assert one.files == two.files or not one.is_directory
        assert one.ties == two.ties
        assert one.structure == two.structure or not one.is_directory
        for name in one.tensors:
            assert one.read(name).dtype == two.read(name).dtype
            assert one.read(name).shape == two.read(name).shape
            assert content(one.read(name)) == content(two.read(name)), name
        assert {n: p.read_bytes() for n, p in one.side_files.items()} == {
            n: p.read_bytes() for n, p in two.side_files.items()
        }
