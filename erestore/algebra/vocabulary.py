"""Whether variants mean the same by heads and by added rows: their maps of labels, their vocabularies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from erestore.algebra.operands import Combined, Operand

OTHER_CLASSES = "the classes have other names or another order (id2label)"
"""Why heads are in conflict."""
VOCABULARIES = frozenset(
    {"added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model"}
)


class ClassLabels(NamedTuple):
    """The names of a head's classes, by number; and the numbers by name, as far as that says something else."""

    names: tuple[tuple[str, str], ...]
    numbers: tuple[tuple[str, str], ...]


def class_labels(combined: Combined, operand: Operand) -> ClassLabels | None:
    """Return what an operand calls its classes; None if it has no ``config.json``.

    What a configuration does not say is the default of transformers: two classes, ``LABEL_0`` and ``LABEL_1``.
    """
    config = combined.side_json(operand, "config.json")
    if not isinstance(config, dict):
        return None
    id2label, label2id = config.get("id2label"), config.get("label2id")
    if not isinstance(id2label, dict):
        names = {number: f"LABEL_{number}" for number in range(2)}
        id2label = {number: name for name, number in label2id.items()} if isinstance(label2id, dict) else names
    named = tuple(sorted((str(number), str(name)) for number, name in id2label.items()))
    inverse = tuple(sorted((name, number) for number, name in named))
    numbered = (
        sorted((str(name), str(number)) for name, number in label2id.items()) if isinstance(label2id, dict) else []
    )
    is_generic = all(name == f"LABEL_{number}" for name, number in numbered)
    return ClassLabels(named, inverse if is_generic else tuple(numbered))


def same_vocabulary(combined: Combined, places: Iterable[int]) -> bool:
    """Return whether the operands at some indices have one vocabulary."""
    return len({tuple(_vocabulary(combined, combined.operands[index])) for index in places}) == 1


def _vocabulary(combined: Combined, operand: Operand) -> Iterator[str]:
    """Yield what tells vocabularies apart; of a tokenizer.json, which holds settings too, the words alone."""
    files = combined.layout(operand).side_files
    for name in sorted(VOCABULARIES & set(files)):
        yield f"{name} {files[name]}"
    tokenizer = combined.side_json(operand, "tokenizer.json")
    if isinstance(tokenizer, dict):
        model = tokenizer.get("model")
        words = model.get("vocab") if isinstance(model, dict) else None
        yield json.dumps([words, tokenizer.get("added_tokens")], sort_keys=True)
