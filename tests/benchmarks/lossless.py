"""Exact variants: stored bytes as a fraction of the original's, ours and others', on every real family.

Run by hand::

    python tests/benchmarks/lossless.py --peers PYTHON

`PYTHON` is one that has ``zipnn==0.5.4``, ``deltatensors==0.2.0``, torch and safetensors. Others are given the tensors alone,
each with the base's of the same name and shape where there is one. Ours is all that a commit adds to a store of files: patch,
residual, whole tensors, layout, side files, records. Fractions are of the tensors' bytes, so that side files and records
count against ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zstandard
from safetensors.torch import save_file

sys.path[:0] = [str(Path(__file__).parents[1])]

import families
import former_remainder

from erestore.api import Store
from erestore.arrays import Array, as_array, as_tensor, raw_bytes
from erestore.checkpoint.open import open_checkpoint
from erestore.encoding.quality import Quality
from erestore.variant.variant import Variant

Tensors = dict[str, torch.Tensor]

PAIRS: dict[str, tuple[Callable[[], dict[str, Path]], str, str]] = {
    "rxnfp ft": (families.rxnfp, "bert_pretrained", "bert_ft"),
    "rxnfp ft 10k": (families.rxnfp, "bert_pretrained", "bert_ft_10k_25s"),
    "minilm movie": (families.minilm_tuned, "base", "movie"),
    "chgnet": (families.chgnet, "0.3.0", "r2scan"),
    "glyphive": (families.glyphive, "ocrb", "courier"),
    "silero": (families.silero, "v5", "v6"),
}
PIECE = 1 << 20


def zstd(content: bytes) -> int:
    compressor = zstandard.ZstdCompressor(level=3)
    return sum(
        min(len(piece), len(compressor.compress(piece)))
        for piece in (content[start : start + PIECE] for start in range(0, len(content), PIECE))
    )


def planes(values: Array) -> bytes:
    return values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def bits(values: Array) -> Array:
    return former_remainder.integers(values.reshape(-1))


def xor(value: Array, base: Array) -> bytes:
    return (bits(value) ^ bits(base)).tobytes()


def grouped_xor(value: Array, base: Array) -> bytes:
    """Bytes of like place together, as BitX has them."""
    return planes(bits(value) ^ bits(base))


def former(value: Array, base: Array) -> bytes:
    """What erestore stored at first."""
    return planes(former_remainder.zigzag(value.reshape(-1), base.reshape(-1)))


SCHEMES = {"XOR": xor, "XOR, bytes grouped": grouped_xor, "integer difference, planes": former}


def by_scheme(base: Tensors, tuned: Tensors) -> dict[str, int]:
    """Return the bytes of all tensors, by scheme; each tensor is compressed by itself, zstandard level 3."""
    found = dict.fromkeys(SCHEMES, 0)
    for name, value in tuned.items():
        own = as_array(value)
        for scheme, transform in SCHEMES.items():
            is_alike = name in base and value.numel() and value.is_floating_point()
            found[scheme] += zstd(transform(own, as_array(base[name])) if is_alike else bytes(raw_bytes(own)))
    return found


def stored_bytes(store: Store) -> int:
    return sum(entry.size for entry in store.storage.list(""))


def ours(work: Path, base: Path, tuned: Path, qualities: dict[str, Quality]) -> tuple[dict[str, int], Tensors, Tensors]:
    """Return the bytes that commits add, by quality, and the tensors of base and fine-tune by the fine-tune's names."""
    found: dict[str, int] = {}
    for name, quality in qualities.items():
        store = Store.init(work / f"store {len(found)}")
        store.import_base(base, name="base")
        before = stored_bytes(store)
        store.commit(tuned, base="base", name="tuned", quality=quality)
        found[name] = stored_bytes(store) - before
    variant = Variant(store.objects, store.manifest_of("tuned"))
    with open_checkpoint(tuned) as checkpoint:
        own = {name: checkpoint.read(name).contiguous() for name in checkpoint.tensors}
    for name, value in own.items():
        assert torch.equal(value.reshape(-1).view(torch.uint8), variant.tensor(name).reshape(-1).view(torch.uint8))
    parent = {}
    for name, place in variant.layout.tensors.items():
        held = variant.base.get(place.key)
        if held is not None and (held.dtype, held.shape) == (place.dtype, place.shape) and "/" not in name:
            parent[name] = as_tensor(variant.base_tensor(place.key))
    return found, parent, own


def peers(python: str, work: Path, base: Tensors, tuned: Tensors) -> dict[str, tuple[int, float]]:
    """Return bytes and the share of elements that come back exactly, by package."""
    save_file({name: value.clone() for name, value in base.items()}, work / "base.safetensors")
    save_file({name: value.clone() for name, value in tuned.items()}, work / "tuned.safetensors")
    script = str(Path(__file__).with_name("lossless_peers.py"))
    command = [python, script, str(work / "base.safetensors"), str(work / "tuned.safetensors")]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {name: tuple(pair) for name, pair in json.loads(run.stdout.splitlines()[-1]).items()}


def narrowed(source: Path, target: Path) -> Path:
    """Write a checkpoint's floating tensors in bfloat16."""
    with open_checkpoint(source) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    save_file(
        {
            name: (value.to(torch.bfloat16) if value.is_floating_point() else value).contiguous().clone()
            for name, value in tensors.items()
        },
        target,
    )
    return target


def main() -> None:
    """Print a table, a row for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="a Python that has zipnn and deltatensors")
    parser.add_argument("--only", choices=list(PAIRS), action="append")
    parser.add_argument("--errors", type=float, nargs="*", default=[], help="qualities of the linear part to try")
    parser.add_argument("--bfloat16", action="store_true", help="both sides in bfloat16, where they are float32")
    options = parser.parse_args()
    if not options.peers:
        print("without --peers, what other packages take is left out")
    qualities = {f"exact, {error:g}": Quality(exact=True, max_error=error) for error in options.errors}
    qualities |= {"exact": Quality(exact=True), "exact-only": Quality(exact_only=True)}
    for name in options.only or PAIRS:
        family, base, tuned = PAIRS[name]
        paths = family()
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            pair = [paths[base], paths[tuned]]
            if options.bfloat16:
                pair = [
                    narrowed(path, work / f"{side}.safetensors") for side, path in zip(("b", "t"), pair, strict=True)
                ]
            sizes, parent, own = ours(work, *pair, qualities)
            total = sum(value.nbytes for value in own.values())
            cells = [f"{scheme} {size / total:.4f}" for scheme, size in by_scheme(parent, own).items()]
            if options.peers:
                for package, (size, exact) in peers(options.peers, work, parent, own).items():
                    cells.append(f"{package} {size / total:.4f}" + (f" ({exact:.1%} exact)" if exact < 1 else ""))
            cells += [f"erestore {quality} {size / total:.4f}" for quality, size in sizes.items()]
        print(f"{name}{', bfloat16' if options.bfloat16 else ''}, {total} bytes: " + "; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
