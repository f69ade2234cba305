"""Whether variants mean the same by heads and by added rows: their maps of labels, their vocabularies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from erestore.model.operands import Combined, Operand

LABELS = ("id2label", "label2id")
VOCABULARIES = frozenset(
    {"added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model"}
)


def same_labels(combined: Combined, places: Iterable[int]) -> bool:
    """Tell whether the operands at some places name their classes alike."""
    found = [_config(combined, combined.operands[place]) for place in places]
    return all(config.get(key) == found[0].get(key) for config in found for key in LABELS)


def same_vocabulary(combined: Combined, places: Iterable[int]) -> bool:
    """Tell whether the operands at some places have one vocabulary."""
    return len({tuple(_vocabulary(combined, combined.operands[place])) for place in places}) == 1


def _config(combined: Combined, operand: Operand) -> Mapping[str, Any]:
    content = combined.side_json(operand, "config.json")
    return content if isinstance(content, dict) else {}


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
