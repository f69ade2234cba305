"""Running a gate: on the original, and on what a candidate decodes to, each as a checkpoint that is removed afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

import torch
from threadpoolctl import threadpool_info, threadpool_limits

from erestore.arrays import as_array, raw_bytes
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.streams import file_blocks
from erestore.checkpoint.write import write_checkpoint
from erestore.encoding.gate import Gate, Trial
from erestore.errors import GateError
from erestore.ingest.layout import layout_of
from erestore.records import Layout
from erestore.variant.variant import Variant
from erestore.variant.write import write_variant


class Trials:
    """The runs of a gate for one commit, each on a checkpoint in a temporary directory. A context manager.

    Parameters
    ----------
    gate : Gate

    Attributes
    ----------
    directory : Path
        Removed on leaving.
    runs : int
    """

    def __init__(self, gate: Gate) -> None:
        self.runs = 0
        self._gate = gate
        self._threads = torch.get_num_threads()
        threads = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
        self._blas_threads = max(threads, default=1)
        self._temporary = tempfile.TemporaryDirectory(prefix="erestore-gate-", ignore_cleanup_errors=True)
        self.directory = Path(self._temporary.name)

    def try_original(self, checkpoint: Checkpoint) -> None:
        """Run the gate on the original, written as an exact variant would be.

        Raises
        ------
        GateError
            If it does not pass.
        """
        keys = {name: name for name in checkpoint.tensors}
        layout = layout_of(checkpoint, keys, dict.fromkeys(checkpoint.side_files, ""), None)

        def write(target: Path) -> None:
            write_checkpoint(
                target,
                layout,
                lambda name: [raw_bytes(as_array(checkpoint.read(name)))],
                lambda name: file_blocks(checkpoint.side_files[name]),
                structure=checkpoint.structure,
            )

        if not self._try(layout, write, None, 0.0):
            raise GateError(
                f"The original does not pass the gate `{self._gate.name}`.",
                hint="Nothing was committed. Run the gate by hand, and relax it.",
            )

    def passes(self, variant: Variant, size: int, error: float) -> bool:
        """Run the gate on what a variant is checked out as; `size` and `error` are for the report."""
        return self._try(variant.layout, partial(write_variant, variant), size, error)

    def _try(self, layout: Layout, write: Callable[[Path], None], size: int | None, error: float) -> bool:
        folder = self.directory / "model"
        target = folder if layout.is_directory else folder / Path(layout.files[0].name).name
        if not layout.is_directory:
            folder.mkdir()
        try:
            write(target)
            self.runs += 1
            passed = self._asked(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._gate.tried(Trial(self.runs, size, error, passed))
        return passed

    def _asked(self, target: Path) -> bool:
        """Ask the gate, which may compute with as many threads as it would elsewhere."""
        ours = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with threadpool_limits(self._blas_threads, user_api="blas"):
                return bool(self._gate.passes(target))
        finally:
            torch.set_num_threads(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()
