"""Write the folders that the how-to pages use, in the current one: a tiny base and fine-tunes of it, 30 kB each.

    python examples/toy_models.py

``roberta-large`` has the names of that model and a thousandth of a thousandth of its weights; the others are the base with
random changes and a head of their own; ``eval.py`` judges them by their weights.
They are good for trying commands, and for nothing else.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

BASE = "roberta-large"
TUNED = ("ft", "ft-longer", "mnli", "task-a", "task-a-longer", "task-b")
LAYER = "roberta.encoder.layer.0"
SHAPES = {
    "roberta.embeddings.word_embeddings.weight": (120, 32),
    f"{LAYER}.attention.self.query.weight": (32, 32),
    f"{LAYER}.output.dense.weight": (32, 64),
    f"{LAYER}.output.dense.bias": (32,),
}

EVALUATION = """\
# Exit with 0 if no weight of a model is off that of ft/ by more than a hundredth of a share: eval.py FOLDER SHARE
import sys
from safetensors.torch import load_file

wanted, stored = (load_file(f"{folder}/model.safetensors") for folder in ("ft", sys.argv[1]))
sys.exit(int(any((stored[name] - tensor).abs().max() > 0.01 * float(sys.argv[2]) for name, tensor in wanted.items())))
"""
"""What stands for a test of a model's answers, which toys have none of."""


def write(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a folder as a library would."""
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text('{"model_type": "roberta"}\n')


def main() -> None:
    """Write all of them; a folder that exists is left alone and ends this."""
    generator = torch.Generator().manual_seed(3)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    write(Path(BASE), base)
    for name in TUNED:
        tuned = {key: value + 0.01 * torch.randn(value.shape, generator=generator) for key, value in base.items()}
        tuned["classifier.weight"] = torch.randn(3, 32, generator=generator)
        write(Path(name), tuned)
    Path("eval.py").write_text(EVALUATION)


if __name__ == "__main__":
    main()
