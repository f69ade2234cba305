"""Commit against the full-SVD route, and checkout against ``cp`` of the base, on synthetic RoBERTa-large shapes.

Run by hand::

    python tests/benchmarks/speed.py --layers 24 --runs 3

Both sides of a ratio run in turn in fresh processes with the same two threads; medians are printed. The SVD route is what LoRA
extraction does: the full SVD of every residual matrix (float32, the wide ones transposed, which is faster), cut to rank 64,
both factors saved in half precision; it neither searches a step nor measures an error, and keeps vectors whole.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))

import synthetic

SETTLE = 5
"""Seconds between deleting one side's files and timing the other: where a virtual machine hands freed memory back to its
host, memory that was freed just now is several times faster to write to, a gift to whoever comes next."""


def svd_route(base: Path, tuned: Path, output: Path, rank: int = 64) -> None:
    """Extract rank-64 factors of every matrix by full SVD, and keep everything else."""
    kept: dict[str, torch.Tensor] = {}
    with safe_open(base / "model.safetensors", "pt") as old, safe_open(tuned / "model.safetensors", "pt") as new:
        for name in new.keys():  # noqa: SIM118 - not a mapping
            delta = new.get_tensor(name).float() - old.get_tensor(name).float()
            if delta.dim() < 2 or min(delta.shape) < rank:
                kept[name] = delta
                continue
            wide = delta.shape[0] < delta.shape[1]
            u, s, vh = torch.linalg.svd(delta.T if wide else delta, full_matrices=False)
            kept[f"{name}.u"] = (u[:, :rank] * s[:rank]).half().contiguous()
            kept[f"{name}.v"] = vh[:rank].half().contiguous()
    save_file(kept, output)


def timed(*command: str) -> float:
    """Return the seconds that a process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--max-error", default="0.05", help="0.05 keeps about rank 64 of the synthetic residual")
    parser.add_argument("--only", choices=["commit", "checkout"], help="measure one of the two ratios")
    parser.add_argument("--svd", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.svd:
        svd_route(*options.svd)
        return
    with tempfile.TemporaryDirectory(dir=".") as folder:
        work = Path(folder)
        size = synthetic.write_checkpoint(work / "base", torch.float32, seed=None, layers=options.layers)
        synthetic.write_checkpoint(work / "ft", torch.float32, seed=1, layers=options.layers)
        store = str(work / "store")
        timed("-m", "erestore", "--store", store, "init")
        timed("-m", "erestore", "--store", store, "import", str(work / "base"), "--name", "base")
        commits, svds, checkouts, copies = [], [], [], []
        for run in range(options.runs):
            name = f"ft{run}"
            if run == 0 or options.only != "checkout":
                commits.append(
                    timed("-m", "erestore", "--store", store, "commit", str(work / "ft"), "--base", "base",
                          "--name", name, "--max-error", options.max_error)
                )  # fmt: skip
            if options.only != "checkout":
                svds.append(timed(__file__, "--svd", *(str(work / n) for n in ("base", "ft", "svd.safetensors"))))
            if options.only != "commit":
                time.sleep(SETTLE)
                start = time.perf_counter()
                subprocess.run(["cp", "-r", str(work / "base"), str(work / "copy")], check=True)
                copies.append(time.perf_counter() - start)
                shutil.rmtree(work / "copy")
                time.sleep(SETTLE)
                checkouts.append(timed("-m", "erestore", "--store", store, "checkout", "ft0", str(work / "out")))
                shutil.rmtree(work / "out")
    print(f"synthetic RoBERTa-large shapes, {options.layers} layers, fp32, {size / 1e6:.0f} MB, 2 threads,")
    print(f"medians of {options.runs} alternating runs of whole processes, --max-error {options.max_error}")
    for what, ours, theirs, other in (("commit", commits, svds, "SVD route"), ("checkout", checkouts, copies, "cp")):
        if not theirs:
            continue
        mine, its = statistics.median(ours), statistics.median(theirs)
        print(f"{what:9} {mine:7.2f} s   {other:9} {its:7.2f} s   ratio {mine / its:.2f}")


if __name__ == "__main__":
    main()
