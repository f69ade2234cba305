"""Write the golden store of modules in folders: layouts with the field ``modules``.

``python tests/golden/make_modules.py DIRECTORY``, once, as ``make.py`` was; what it wrote is committed and not written again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
import weights
from make import COARSE, EXACT, write_expected
from safetensors.torch import save_file

from erestore.api import Store


def write(directory: Path, tensors: weights.Tensors, note: str) -> Path:
    """Write a model with a module in each format."""
    weights.write_directory(directory, tensors, note)
    for folder in ("1_Dense", "2_LSTM"):
        (directory / folder).mkdir()
    save_file({"linear.weight": tensors["dense.weight"] * 2}, directory / "1_Dense" / "model.safetensors")
    tied = tensors["embed.weight"] + 1
    torch.save({"weight_ih": tied, "weight_hh": tied}, directory / "2_LSTM" / "pytorch_model.bin")
    return directory


def main() -> None:
    """Make the store that the first argument names."""
    target = Path(sys.argv[1])
    store = Store.init(target / "store")
    store.author = "golden"
    with tempfile.TemporaryDirectory() as place:
        base = {name: weights.base()[name] for name in ("dense.weight", "embed.weight")}
        store.import_base(write(Path(place) / "base", base, "base"), name="base")
        first, second = weights.tuned(base, 100), weights.tuned(base, 200)
        store.commit(write(Path(place) / "lossy", first, "lossy"), base="base", quality=COARSE)
        store.commit(write(Path(place) / "exact", second, "exact"), base="base", quality=EXACT)
        store.merge(["lossy", "exact"], name="mean")
    write_expected(store, target / "expected.json")


if __name__ == "__main__":
    main()
