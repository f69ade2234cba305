"""Peak resident memory of import, commit and checkout of a sharded bf16 checkpoint of at least 1 GB, beyond the imports' own.

Run by hand, on a directory and on S3 (a SeaweedFS server that this script starts)::

    python tests/benchmarks/memory.py
    python tests/benchmarks/memory.py --s3

The weights are synthetic (RoBERTa-large shapes, 36 layers).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import blake3  # noqa: F401 - these imports are part of the floor
import numpy as np  # noqa: F401
import psutil
import torch
import zstandard  # noqa: F401

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import synthetic

from erestore.api import Store
from erestore.encoding.quality import Quality

LIMIT = 1500
"""Megabytes that are allowed beyond the imports."""


class Peak:
    """Samples this process's resident memory every 10 ms."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.base = self.process.memory_info().rss
        self.peak = self.base
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self.process.memory_info().rss)
            time.sleep(0.01)

    def report(self, what: str, start: float) -> None:
        """Print and start over."""
        over = (self.peak - self.base) / 1e6
        print(
            f"{what:10} {time.perf_counter() - start:7.1f} s   peak {over:6.0f} MB   {'ok' if over < LIMIT else 'TOO MUCH'}"
        )
        self.peak = self.process.memory_info().rss


def run(work: Path, url: str, options: dict[str, object], quality: Quality) -> None:
    """Measure one store."""
    if url.startswith("s3"):
        import s3fs  # noqa: F401 - part of the imports
    peak = Peak()
    store = Store.init(url, **options)
    start = time.perf_counter()
    store.import_base(work / "base", name="base")
    peak.report("import", start)
    start = time.perf_counter()
    result = store.commit(work / "ft", base="base", name="ft", quality=quality)
    peak.report("commit", start)
    print(f"           {result.stored_bytes / 1e6:.1f} MB stored of {result.original_bytes / 1e6:.0f} MB, "
          f"relative error {result.relative_error:.4f}")  # fmt: skip
    start = time.perf_counter()
    store.checkout("ft", work / "out", force=True)
    peak.report("checkout", start)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--max-error", type=float, default=0.05)
    options = parser.parse_args()
    quality = Quality(max_error=options.max_error, exact=options.exact)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        work = Path(folder)
        size = synthetic.write_checkpoint(work / "base", torch.bfloat16, seed=None, shards=4, layers=options.layers)
        synthetic.write_checkpoint(work / "ft", torch.bfloat16, seed=1, shards=4, layers=options.layers)
        print(f"synthetic, {size / 1e6:.0f} MB in bf16, 4 shards; {os.cpu_count()} processors")
        if not options.s3:
            run(work, str(work / "store"), {}, quality)
            return
        from servers import fresh_url, seaweed

        (work / "server").mkdir()
        with seaweed(work / "server") as settings:
            run(work, fresh_url(), {"options": settings}, quality)


if __name__ == "__main__":
    main()
