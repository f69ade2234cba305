"""Write the golden store of codes in runs: codecs ``lowrank2`` and ``remainder``, entropy stage ``runs``.

``python tests/golden/make_runs.py DIRECTORY``, once, as ``make.py`` was; what it wrote is committed and never written again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import weights
from crafted import commit_sections
from crafted_runs import sections
from make import COARSE, write_expected

from erestore.api import Store


def base() -> weights.Tensors:
    """Matrices that are large enough for tables, in several dtypes."""
    return weights.base() | {
        "dense.weight": weights.numbers((96, 128), 13).to(weights.torch.bfloat16),
        "embed.weight": weights.numbers((320, 64), 16, 20).to(weights.torch.float32),
    }


def fill(store: Store, place: Path) -> None:
    """Commit variants of every dtype, two versions, and a chain."""
    start = base()
    store.import_base(weights.write_directory(place / "base", start, "base"), name="base", message="Every dtype")
    first = weights.tuned(start, 100, decay=2.0**-4, noise=2.0**-6)
    store.commit(weights.write_directory(place / "lossy", first, "lossy"), base="base")
    second = weights.tuned(first, 200)
    store.commit(weights.write_directory(place / "lossy-2", second, "lossy"), name="lossy", quality=COARSE)
    child = weights.tuned(second, 300, rank=2)
    store.commit(weights.write_directory(place / "child", child, "child"), parent="lossy", quality=COARSE)
    grandchild = weights.tuned(child, 400, rank=20, noise=2.0**-12)
    store.commit(weights.write_directory(place / "grandchild", grandchild, "grandchild"), parent="child")
    noisy = weights.tuned(start, 500, rank=1, noise=2.0**-2)
    store.commit(weights.write_directory(place / "noisy", noisy, "noisy"), base="base", quality=COARSE)
    commit_sections(store, sections(start))


def main() -> None:
    """Make the store that the first argument names."""
    target = Path(sys.argv[1])
    store = Store.init(target / "store")
    store.author = "golden"
    with tempfile.TemporaryDirectory() as place:
        fill(store, Path(place))
    write_expected(store, target / "expected.json")


if __name__ == "__main__":
    main()
