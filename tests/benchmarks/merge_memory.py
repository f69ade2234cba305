"""Peak memory and time of merges and of flatten on RoBERTa-large shapes, each in a process of its own.

Run by hand; it takes some minutes and about 2 GB of disk::

    python tests/benchmarks/merge_memory.py
    python tests/benchmarks/merge_memory.py tsv flatten --layers 6

The base is synthetic (24 layers, 1024 wide, vocabulary 50265, float32), and so are four variants of it: LoRA adapters of rank
16 on every matrix, embeddings included, which the store takes as they are. `flatten` is of their average. Memory is what the
process holds at its peak beyond what it held after its imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

LIMIT = 600
"""Megabytes that are allowed beyond the imports."""
RANK, VARIANTS = 16, 4
NAMES = tuple(f"v{number}" for number in range(VARIANTS))
METHODS = ("average", "model-stock", "slerp", "tsv", "knots", "iso-c", "core-space", "flatten")


def adapter(directory: Path, layers: int, seed: int) -> Path:
    """Write a LoRA adapter of every matrix of at least 64 rows."""
    import synthetic
    import torch
    from safetensors.torch import save_file

    generator, tensors, modules = torch.Generator().manual_seed(seed), {}, set()
    for name, (rows, columns) in ((n, s) for n, s in synthetic.roberta_large_shapes(layers) if len(s) == 2):
        if rows < 64:
            continue
        module = name.removesuffix(".weight")
        modules.add(module.rpartition(".")[2])
        up = 0.02 * torch.randn(rows, RANK, generator=generator)
        down = torch.randn(RANK, columns, generator=generator) * 0.02
        if "embeddings" in module:
            tensors[f"base_model.model.{module}.lora_embedding_A"] = up.T.contiguous()
            tensors[f"base_model.model.{module}.lora_embedding_B"] = down.T.contiguous()
        else:
            tensors[f"base_model.model.{module}.lora_A.weight"] = down
            tensors[f"base_model.model.{module}.lora_B.weight"] = up
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    configuration = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": sorted(modules)}
    (directory / "adapter_config.json").write_text(json.dumps(configuration | {"base_model_name_or_path": "base"}))
    return directory


def prepare(work: Path, layers: int) -> None:
    """Make the store."""
    import synthetic
    import torch

    from erestore.api import Store

    synthetic.write_checkpoint(work / "base", torch.float32, seed=None, layers=layers)
    store = Store.init(work / "store")
    store.import_base(work / "base", name="base")
    for seed, name in enumerate(NAMES, 1):
        store.commit(adapter(work / name, layers, seed), base="base", name=name)
    store.merge(NAMES, name="mean")


class Peak:
    """Samples this process's resident memory every 5 ms, from the moment it is made."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self.before = self.highest = self._process.memory_info().rss
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.highest = max(self.highest, self._process.memory_info().rss)
            time.sleep(0.005)

    @property
    def megabytes(self) -> float:
        """What was held at most since."""
        return (self.highest - self.before) / 1e6


def one(method: str, work: Path) -> dict[str, float]:
    """Run one method in this process."""
    import erestore.analysis.similarity.inner_products
    import erestore.encoding.computed_source
    import erestore.encoding.merged_delta
    import erestore.merge.registry
    import erestore.ops.flatten
    import erestore.ops.merge  # noqa: F401 - these imports are part of the floor
    from erestore.api import Store

    store = Store.open(work / "store")
    peak, start = Peak(), time.perf_counter()
    if method == "flatten":
        done = store.flatten("mean", name="flat")
    else:
        done = store.merge(NAMES[:2] if method == "slerp" else NAMES, name=method, strategy=method)
    return {
        "seconds": time.perf_counter() - start,
        "megabytes": peak.megabytes,
        "stored": done.stored_bytes / 1e6,
    }


def main() -> int:
    """Measure, and return 1 if a method takes too much memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=" ".join(METHODS))
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one[0], Path(asked.one[1]))))
        return 0
    failed = False
    with tempfile.TemporaryDirectory(dir=".") as folder:
        prepare(Path(folder), asked.layers)
        print(f"| method | seconds | peak MB (limit {LIMIT}) | MB stored |\n| --- | ---: | ---: | ---: |")
        for method in asked.methods or METHODS:
            command = [sys.executable, __file__, "--one", method, folder]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            mark = "" if found["megabytes"] < LIMIT else " TOO MUCH"
            failed = failed or bool(mark)
            figures = f"{found['seconds']:.0f} | {found['megabytes']:.0f}{mark} | {found['stored']:.1f}"
            print(f"| {method} | {figures} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
