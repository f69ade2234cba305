"""Seconds and peak memory of `diff` on a model of about 100 M parameters: variants of a store, and one that is in none.

Run by hand, on an idle machine; each comparison in a process of its own, first without and then with the spectra of the base::

    python tests/benchmarks/diffing.py [--work DIRECTORY]

The weights are synthetic (RoBERTa-large shapes, 4 layers, float32): `one` and `two` moved in all directions, in most of them
little, and are stored with remainders; `low` and `lower` moved in 16, as with adapters, and are stored as factors alone.
With ``--work`` models and store are kept and used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

LAYERS = 4
RANK = 16
COMPARISONS = (
    ("base", "one"),
    ("low", "lower"),
    ("base", "low"),
    ("one", "two"),
    ("one", "0.5*one + 0.5*two"),
    ("one", "two-files"),
    ("0.5*one + 0.5*two", "two-files"),
)
"""The last name of a pair is a revision, or the folder of that name."""


def prepare(work: Path) -> None:
    """Make a base, four fine-tunes of it, and a store that holds all."""
    import synthetic
    import torch

    from erestore.api import Store

    if (work / "store").is_dir():
        return
    for name, seed in (("base", None), ("one", 1), ("two-files", 2)):
        size = synthetic.write_checkpoint(work / name, torch.float32, seed=seed, layers=LAYERS)
    print(f"{size / 4e6:.0f} M parameters, {size / 1e6:.0f} MB in float32")
    store = Store.init(work / "making")
    store.import_base(work / "base", name="base")
    for name, seed in (("low", 3), ("lower", 4)):
        write_low_rank(work / name, work / "base", seed)
    for folder, name in (("one", "one"), ("two-files", "two"), ("low", "low"), ("lower", "lower")):
        done = store.commit(work / folder, base="base", name=name)
        print(f"{name}: {done.stored_bytes / 1e6:.1f} MB stored, relative error {done.relative_error:.4f}")
    (work / "making").rename(work / "store")


def write_low_rank(place: Path, base: Path, seed: int) -> None:
    """Write a fine-tune that moved in 16 directions of every matrix."""
    import torch
    from safetensors.torch import load_file, save_file

    place.mkdir()
    (place / "config.json").write_bytes((base / "config.json").read_bytes())
    random = torch.Generator().manual_seed(seed)
    tensors = load_file(base / "model.safetensors")
    for tensor in tensors.values():
        if tensor.dim() == 2 and len(tensor) > RANK:
            left, right = (torch.randn(size, RANK, generator=random) for size in tensor.shape)
            tensor.add_(2e-4 * left @ right.T)
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})


def measure(work: Path, a: str, b: str) -> None:
    """Compare once, and print what it took as JSON."""
    import torch
    from memory import Peak

    import erestore.ops.diff  # noqa: F401 - imports are no part of what is measured
    from erestore.api import Store

    torch.linalg.eigvalsh(torch.eye(8, dtype=torch.float64))  # nor are its library's own buffers
    peak = Peak()
    start = time.perf_counter()
    other = work / b if (work / b).is_dir() and b == "two-files" else b
    result = Store.open(work / "store").diff(a, other, spectra_directory=work / "spectra")
    seconds = time.perf_counter() - start
    by = sorted({tensor.computed_from for tensor in result.tensors} - {""})
    megabytes = (peak.peak - peak.base) / 1e6
    print(json.dumps({"seconds": seconds, "megabytes": megabytes, "by": by, "tensors": len(result.tensors)}))


def main() -> None:
    """Prepare, and measure each comparison twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.work, *options.one)
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        prepare(work)
        for a, b in COMPARISONS:
            for spectra in ("without", "with"):
                command = [sys.executable, __file__, "--work", str(work), "--one", a, b]
                found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                print(
                    f"{a:18} {b:18} {spectra:>7} spectra: {found['seconds']:6.1f} s   peak {found['megabytes']:5.0f} MB   "
                    f"{found['tensors']} tensors by {', '.join(found['by'])}"
                )


if __name__ == "__main__":
    main()
