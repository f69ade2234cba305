"""All pairs of many variants: time and memory of the Gram matrix of a fleet in a BERT-base shape, at a fixed rank.

The residuals are synthetic: random factors, quantised and stored as `commit` stores them, on an empty base. Figures say what
the arithmetic costs, nothing of any model. Run by hand::

    python tests/benchmarks/similarity.py --variants 1000            # measures a part and says what all would take
    python tests/benchmarks/similarity.py --variants 1000 --whole
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from erestore.analysis.similarity.inner_products import ResidualProducts
from erestore.analysis.similarity.product_cache import ProductTable
from erestore.api import Store
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.squared_errors import Errors
from erestore.records import Base, Manifest, TensorRef, WholeTensor
from erestore.residual.codecs import lowrank2
from erestore.residual.codecs.lowrank import Codes, cut_groups, largest_codes
from erestore.variant.variant import Variant

LAYERS, HIDDEN, INNER, VOCABULARY, POSITIONS = 12, 768, 3072, 30522, 512
DECAY = 0.7
"""Singular values fall as ``k ** -DECAY``, as in :mod:`synthetic`."""
NORM = 100
"""Norm of the last component's columns of codes; those of rxnfp and MiniLM at errors of 0.3 to 0.001 have 20 to 700."""


def shapes() -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name and shape of BERT-base's matrices."""
    yield "embeddings.word_embeddings.weight", (VOCABULARY, HIDDEN)
    yield "embeddings.position_embeddings.weight", (POSITIONS, HIDDEN)
    for layer in range(LAYERS):
        for name in ("query", "key", "value", "output"):
            yield f"encoder.layer.{layer}.attention.{name}.weight", (HIDDEN, HIDDEN)
        yield f"encoder.layer.{layer}.intermediate.weight", (INNER, HIDDEN)
        yield f"encoder.layer.{layer}.output.weight", (HIDDEN, INNER)
    yield "pooler.weight", (HIDDEN, HIDDEN)


def codes(shape: tuple[int, int], rank: int, random: np.random.Generator) -> Codes:
    """Return random factors whose components fall off, in integers."""
    scale = np.arange(1, rank + 1) ** -DECAY * rank**DECAY
    sides = []
    for size in shape:
        values = random.standard_normal((size, rank)) * (NORM * np.sqrt(scale / size))
        sides.append(np.rint(values).astype(np.int16))
    largest = [largest_codes(side) for side in sides]
    products = [int(one * two) for one, two in zip(*largest, strict=True)]
    groups, shifts = cut_groups([1] * rank, [-30] * rank, products)
    return Codes(sides[0], sides[1], np.ones(rank, np.int64), np.array(shifts, np.int64), groups)


def make(store: Store, base: str, rank: int, seed: int) -> str:
    """Write one synthetic residual and return its oid."""
    random = np.random.default_rng(seed)
    with ResidualWriter(store.objects, base) as writer:
        for key, shape in sorted(shapes()):
            writer.add(key, shape, (lowrank2.encode(codes(shape, rank, random)),), Errors(0.0, 0.0, 1.0))
        return writer.finish().oid


def base_of(store: Store) -> str:
    """Write a base record in these shapes that has no tensors behind it: factors need none."""
    data = TensorRef("0" * 64, 0, 0)
    tensors = {key: WholeTensor("F32", shape, "0" * 64, data) for key, shape in shapes()}
    return store.objects.put_record("base", Base(tensors).to_record()).oid


def compute(directory: Path, base: str, oids: list[str], table: Path) -> dict[str, float]:
    """Compute all inner products that are not in the table; return seconds, those of processors, and peak megabytes."""
    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    store = Store.open(directory)
    start, used = time.perf_counter(), time.process_time()
    variant = Variant(store.objects, Manifest(base, (), ""))
    found = ResidualProducts(variant, oids, ProductTable(table, store.id)).all()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    done.set()
    watcher.join()
    assert np.isfinite(found).all()
    return {"seconds": seconds, "processor_seconds": used, "peak_mb": peak[0] / 1e6}


def separately(directory: Path, base: str, oids: list[str], table: Path) -> dict[str, float]:
    """Run :func:`compute` in a process of its own, so that its memory is its own."""
    request = json.dumps([str(directory), base, oids, str(table)])
    ran = subprocess.run(
        [sys.executable, __file__, "--compute"], input=request, capture_output=True, text=True, check=True
    )
    return json.loads(ran.stdout)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=1000)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--part", type=int, default=200, help="Variants that are measured unless --whole.")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--compute", action="store_true", help="For this program itself.")
    parser.add_argument("--keep", type=Path, help="Where to keep the synthetic store between runs.")
    options = parser.parse_args()
    if options.compute:
        directory, base, oids, table = json.load(sys.stdin)
        print(json.dumps(compute(Path(directory), base, oids, Path(table))))
        return
    count = options.variants if options.whole else options.part
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = options.keep or Path(folder)
        place.mkdir(exist_ok=True)
        store = Store.open(place / "store") if (place / "store").exists() else Store.init(place / "store")
        base = base_of(store)
        listed = place / f"oids-{options.rank}.json"
        oids = json.loads(listed.read_text()) if listed.exists() else []
        while len(oids) <= count:
            oids.append(make(store, base, options.rank, len(oids)))
        listed.write_text(json.dumps(oids))
        table = Path(folder, "table")
        print(f"synthetic: BERT-base shape, rank {options.rank}, {store.objects.size(oids[0]) / 1e6:.1f} MB a residual")
        first = separately(place / "store", base, oids[:count], table)
        pairs = count * (count + 1) // 2
        print(f"{count} variants, {pairs} pairs: {told(first)}")
        if not options.whole:
            whole = first["processor_seconds"] * options.variants * (options.variants + 1) // 2 / pairs
            print(f"at this rate {options.variants} variants would take {whole:.0f} s of processors")
        again = separately(place / "store", base, oids[:count], table)
        print(f"once more, from the table: {again['seconds']:.2f} s")
        one = separately(place / "store", base, oids[: count + 1], table)
        print(f"one more variant, {count + 1} pairs: {told(one)}")


def told(found: dict[str, float]) -> str:
    """Return time and memory in words."""
    seconds, used, peak = found["seconds"], found["processor_seconds"], found["peak_mb"]
    return f"{seconds:.1f} s ({used:.1f} s of processors), peak {peak:.0f} MB"


if __name__ == "__main__":
    main()
