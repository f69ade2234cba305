"""What repacking gains on a synthetic fleet, and what it costs: bytes, and true errors against what was committed.

    python tests/benchmarks/repacking.py
    python tests/benchmarks/repacking.py --variants 24 --share 0.8

All variants start from one checkpoint, of full rank from the base, that is not in the store, and differ from it in rank 2.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding.quality import Quality

SHAPES = {f"layer.{number}.weight": (256, 192) for number in range(4)} | {"bias": (256,)}
SIZE = 0.005
SETTINGS = ((0.01, None), (0.01, 0.01), (1e-3, None), (1e-3, 1e-3), (1e-4, 1e-3), (1e-4, 0.01))
"""Errors asked for at the commits, and of repacking; None for the default."""


def fleet(count: int, share: float) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Return a base, and variants of which `share` of the squared norm of all that they changed is common to all."""
    generator = torch.Generator().manual_seed(1)
    base = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    common = {name: SIZE * share**0.5 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    def own(shape: tuple[int, ...]) -> torch.Tensor:
        found = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            left, right = (torch.randn(size, 2, generator=generator) for size in shape)
            found = 0.5**0.5 * left @ right.T
        return SIZE * (1 - share) ** 0.5 * found

    return base, [
        {name: base[name] + common[name] + own(shape) for name, shape in SHAPES.items()} for _ in range(count)
    ]


def measure(place: Path, count: int, share: float, error: float, again: float | None) -> str:
    """Return a row: bytes of variants before and after, how they were encoded, and the mean true error."""
    base, variants = fleet(count, share)
    store = Store.init(place / "store")

    def save(name: str, tensors: dict[str, torch.Tensor]) -> Path:
        (place / name).mkdir()
        save_file(tensors, place / name / "model.safetensors")
        return place / name

    store.import_base(save("base", base), name="base")
    whole = store.du().stored_bytes
    for number, tensors in enumerate(variants):
        store.commit(save(f"v{number}", tensors), base="base", name=f"v{number}", quality=Quality(max_error=error))
    before = store.du().stored_bytes - whole
    done = store.repack(max_error=again)
    store.gc(reflog_days=0, grace_days=0)
    after = store.du().stored_bytes - whole
    lost = norm = 0.0
    for number, tensors in enumerate(variants):
        found = store.state_dict(f"v{number}")
        for name, value in tensors.items():
            lost += float((found[name].double() - value.double()).square().sum())
            norm += float((base[name].double() - value.double()).square().sum())
    parents = sorted({each.parent for each in done.repacked})
    rank = max((each.rank_after for each in done.repacked), default=0)
    return (
        f"| {error:g} | {'default' if again is None else f'{again:g}'} | {before:,} | {after:,} | {before / after:.1f} | "
        f"{lost / norm:.2g} | {len(done.repacked)} on {', '.join(parents) or 'nothing'} | {rank:.0f} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=12)
    parser.add_argument("--share", type=float, default=0.9)
    arguments = parser.parse_args()
    print("| committed at | repacked at | bytes before | after | times | true error | parents | largest rank |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |")
    for error, again in SETTINGS:
        with tempfile.TemporaryDirectory() as place:
            print(measure(Path(place), arguments.variants, arguments.share, error, again), flush=True)


if __name__ == "__main__":
    main()
