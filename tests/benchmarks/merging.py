"""Merge strategies side by side with mergekit and PEFT on the same inputs: time, peak memory, error to the dense truth.

Run by hand, with a Python that has mergekit, PEFT and what erestore's arithmetic needs (numpy, blake3, ml-dtypes)::

    PYTHONPATH=. python tests/benchmarks/merging.py [METHOD ...]

The inputs are four fine-tunes of one layer, synthetic, of rank 16 in the shape of RoBERTa-large's feed-forward layer. `dense`
is the direct formula in float64 and the truth for the others; ours take factors, or for `ties`, `dare` and `fisher` row tiles
that are made of them; mergekit takes whole float32 weights, from which the base is subtracted; PEFT takes the LoRA adapters.
Every measurement is a process of its own; memory is what it takes beyond its imports and inputs.

An error is ``norm(found - truth) / norm(truth)`` of the merged difference. That of PEFT's `linear`, `ties` and `dare_linear`
is no rounding: these merge the A and the B of the adapters by themselves, and ``(B_1 + B_2) (A_1 + A_2)`` has cross terms.
slerp is of differences here and of whole weights in mergekit. What is dropped at random differs from tool to tool, and is
then measured against the linear merge that all expect.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "merge"))

SHAPE, RANK, COUNT, DENSITY = (1024, 4096), 16, 4, Fraction(1, 5)


def inputs():
    from matrices import Variants

    return Variants.random(SHAPE, (RANK,) * COUNT)


def information() -> list[np.ndarray]:
    return list(np.random.default_rng(1).random((COUNT, *SHAPE), dtype=np.float32))


def moments() -> list[np.ndarray]:
    made = np.random.default_rng(2).standard_normal((COUNT, 2 * SHAPE[1], SHAPE[1]), dtype=np.float32)
    return [each.T @ each for each in made]


STATISTICS = {"fisher": information, "regmean": moments}
TWO = ("slerp",)


def dense(method: str, statistics):
    """Return the formula on float64 matrices."""
    import formulas

    from erestore.merge.registry import strategy

    deltas = inputs().dense
    used = deltas[:2] if method in TWO else deltas
    ones = [1.0] * COUNT

    def gram():
        return [[float(np.vdot(one, two)) for two in used] for one in used]

    def linear():
        found = strategy(method, {}).coefficients([Fraction(1)] * len(used), gram)
        return sum(float(each) * delta for each, delta in zip(found, used, strict=True))

    def knots():
        left, parts = formulas.knots_parts(deltas)
        return left @ formulas.ties(parts, ones, DENSITY)

    def core():
        from erestore.merge.factored_svd import balanced

        even = [balanced(each) for each in inputs().factors]
        left, right = (formulas.svd(np.concatenate(side, axis=1))[0] for side in zip(*even, strict=True))
        return left @ formulas.tsv([left.T @ delta @ right for delta in deltas]) @ right.T

    def fisher():
        share = [np.maximum(each.astype(np.float64), 1e-6) for each in statistics]
        return sum(each * delta for each, delta in zip(share, deltas, strict=True)) / sum(share)

    def regmean():
        return formulas.regmean(deltas, [each.astype(np.float64) for each in statistics], 0.9, ones)

    return {
        "ties": lambda: formulas.ties(deltas, ones, DENSITY),
        "dare": lambda: sum(deltas),
        "tsv": lambda: formulas.tsv(deltas),
        "iso-c": lambda: formulas.iso_c(deltas),
        "knots": knots,
        "core-space": core,
        "fisher": fisher,
        "regmean": regmean,
    }.get(method, linear)


def ours(method: str, statistics):
    """Return the strategy on factors or tiles; a linear one gives coefficients from factors' inner products."""
    from dataclasses import replace

    from matrices import tiled

    from erestore.merge.operands import MatrixFactors
    from erestore.merge.registry import strategy
    from erestore.merge.tiles import tiles

    made = strategy(method, {"density": str(DENSITY)} if method in ("ties", "dare", "knots") else {})
    variants = inputs()
    variants.factors = variants.factors[:2] if method in TWO else variants.factors
    count = len(variants.factors)

    def gram():
        held = variants.factors
        return [[float(np.vdot(a.left.T @ b.left, a.right.T @ b.right)) for b in held] for a in held]

    def linear():
        found = made.coefficients([Fraction(1)] * count, gram)
        left = [float(each) * own.left for each, own in zip(found, variants.factors, strict=True)]
        return MatrixFactors(
            np.concatenate(left, axis=1), np.concatenate([own.right for own in variants.factors], axis=1)
        )

    def factors():
        return made.merge(variants.factored(None, statistics))

    def elementwise():
        operands = tiled([], **variants._common(None, statistics))
        rows = [lambda a, b, own=own: own.left[a:b] @ own.right.T for own in variants.factors]
        merged = made.prepare(replace(operands, rows=rows))
        # What comes next takes tile after tile; float32 stands for what it makes of them.
        found = np.empty(SHAPE, np.float32) if keep else None
        for start, stop in tiles(SHAPE):
            tile = merged(start, stop)
            if found is not None:
                found[start:stop] = tile
        return found

    keep = False
    run = {"linear": linear, "factors": factors, "elementwise": elementwise}[made.kind]

    def result():
        nonlocal keep
        keep = True
        found = run()
        return found.left @ found.right.T if isinstance(found, MatrixFactors) else found

    return run, result


def mergekit(method: str):
    """Return mergekit's method on whole float32 weights."""
    import torch
    from mergekit.merge_methods.api import merge_tensors

    torch.set_num_threads(1)
    name, parameters = {
        "average": ("linear", {"weight": 1.0}),
        "task-arithmetic": ("task_arithmetic", {"weight": 1.0}),
        "slerp": ("slerp", {"t": 0.5}),
        "model-stock": ("model_stock", {}),
        "ties": ("ties", {"weight": 1.0, "density": float(DENSITY)}),
        "dare": ("dare_linear", {"weight": 1.0, "density": float(DENSITY)}),
    }[method]
    base = torch.from_numpy(np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32) * 0.02)
    # Subtracted in float64, so that the truth is that of the float32 weights.
    deltas = inputs().dense
    tuned = [(base.double() + torch.from_numpy(each)).float() for each in (deltas[:2] if method in TWO else deltas)]
    del deltas
    has_base = method not in ("average", "slerp")
    arguments = {"parameters": parameters, "base_index": 0 if has_base or method == "slerp" else None}
    held = [base, *tuned] if has_base else tuned

    def run():
        return merge_tensors(held, name, **arguments)

    def difference():
        return (run().double() - base.double()).numpy()

    return run, difference


def peft(method: str):
    """Return PEFT's merge of LoRA adapters."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(1)
    kind, extra = {
        "average": ("linear", {}),
        "task-arithmetic": ("linear", {}),
        "ties": ("ties", {"density": float(DENSITY)}),
        "ties-svd": ("ties_svd", {"density": float(DENSITY), "svd_full_matrices": False}),
        "dare": ("dare_linear", {"density": float(DENSITY)}),
    }[method]
    model = torch.nn.Sequential(torch.nn.Linear(SHAPE[1], SHAPE[0], bias=False))
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"])
    held = get_peft_model(model, config, adapter_name="v0")
    for place in range(1, COUNT):
        held.add_adapter(f"v{place}", config)
    layer = held.base_model.model[0]
    for place, (left, right) in enumerate(inputs().factors):
        layer.lora_B[f"v{place}"].weight.data = torch.from_numpy(left).float()
        layer.lora_A[f"v{place}"].weight.data = torch.from_numpy(np.ascontiguousarray(right.T)).float()
    weight = 1 / COUNT if method == "average" else 1.0
    names = [f"v{place}" for place in range(COUNT)]
    runs = iter(range(100))

    def run():
        name = f"merged{next(runs)}"
        held.add_weighted_adapter(names, [weight] * COUNT, name, combination_type=kind, **extra)
        return name

    return run, lambda: layer.get_delta_weight(run()).double().detach().numpy()


LINEAR = ("average", "task-arithmetic", "slerp", "model-stock")
METHODS = (*LINEAR, "ties", "dare", "fisher", "regmean", "tsv", "knots", "iso-c", "core-space")
TOOLS = {
    "dense": METHODS,
    "erestore": METHODS,
    "mergekit": (*LINEAR, "ties", "dare"),
    "peft": ("average", "task-arithmetic", "ties", "ties-svd", "dare"),
}


def memory(key: str) -> int:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(key))
    return int(line.split()[1]) * 1024


def measured(run: Callable[[], object]) -> dict[str, float]:
    """Return seconds and bytes that a call takes at most."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    held = run()
    seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
    del held
    return {"seconds": seconds, "megabytes": max(0, peak) / 1e6}


def one(tool: str, method: str, folder: Path) -> dict[str, float]:
    """Measure a method of a tool in this process."""
    statistics = STATISTICS[method]() if method in STATISTICS and tool in ("dense", "erestore") else None
    truth = folder / f"{method.removesuffix('-svd')}.npy"
    if tool == "dense":
        run = dense(method, statistics)
        found = measured(run)
        np.save(truth, run())
        return found | {"error": 0.0}
    run, result = ours(method, statistics) if tool == "erestore" else {"mergekit": mergekit, "peft": peft}[tool](method)
    found, wanted = measured(run), np.load(truth)
    return found | {"error": float(np.linalg.norm(result() - wanted) / np.linalg.norm(wanted))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--one", nargs=3)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one[0], asked.one[1], Path(asked.one[2]))))
        return
    print(f"{COUNT} variants of {SHAPE[0]} x {SHAPE[1]} at rank {RANK}, one thread\n")
    print(f"{'method':16} {'tool':10} {'seconds':>9} {'MB':>8} {'error':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for method in asked.methods or [*METHODS[:5], "ties-svd", *METHODS[5:]]:
            for tool, methods in TOOLS.items():
                if method not in methods:
                    continue
                command = [sys.executable, __file__, "--one", tool, method, folder]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{method:16} {tool:10} failed: {done.stderr.strip().splitlines()[-1]}")
                    continue
                found = json.loads(done.stdout.splitlines()[-1])
                figures = f"{found['seconds']:9.3f} {found['megabytes']:8.1f} {found['error']:10.1e}"
                print(f"{method:16} {tool:10} {figures}", flush=True)


if __name__ == "__main__":
    main()
