"""A head that is the embedding: where a model ties the two, and a configuration that no longer does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from erestore.checkpoint.peft_kinds import KEEP
from erestore.errors import CheckpointError
from erestore.records import Layout

TiedWeights = Callable[[Mapping[str, Any]], Mapping[str, str] | None]
"""Given the content of ``config.json``, returns which weights are the same as which; None if that is not known."""

_FALLBACKS = {
    "embed_tokens.weight": "lm_head.weight",
    "wte.weight": "lm_head.weight",
}
"""By the end of the embedding's name, the head's, in models with a head for language alone."""


_DEEPEST = 4
"""Levels of a configuration: no model of models of models is deeper."""


class TiedHead(NamedTuple):
    """The name of a head, and the base's tensor that it shares with the embedding."""

    name: str
    key: str


def find_ties(
    layout: Layout, config: Mapping[str, Any], keys: Mapping[str, Any], tied_weights: TiedWeights
) -> dict[str, str]:
    """Return the names of weights that a model shares with another, each with the base's key of that other.

    Parameters
    ----------
    layout : Layout
        The variant's; its own ties count where it has any.
    config : Mapping
        The content of its ``config.json``, empty if there is none.
    keys : Mapping
        The tensors of the base, or of a variant by the base's names.
    tied_weights : TiedWeights
    """
    if layout.ties:
        pairs = {name: layout.tensors[group[0]].key for group in layout.ties for name in group[1:]}
    elif _ties(config):
        weights = tied_weights(config)
        pairs = dict(weights if weights is not None else _fallback(config, keys))
    else:
        pairs = {}
    return {name: key for name, key in pairs.items() if key in keys}


def require_pair(ties: Mapping[str, str], changed: Collection[str]) -> TiedHead | None:
    """Return the two names of a weight of which an adapter changes at least one; None if it changes none.

    Raises
    ------
    CheckpointError
        If the model shares further weights: no configuration separates these two and keeps the others together.
    """
    if not any(name in changed or key in changed for name, key in ties.items()):
        return None
    if len(ties) > 1:
        raise CheckpointError(
            f"The adapter changes one end of a weight of a model that shares weights in more than two places "
            f"({', '.join(sorted({*ties, *ties.values()})[:4])}), which no checkpoint of it can hold.",
            hint=KEEP,
        )
    return TiedHead(*next(iter(ties.items())))


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of a model with a head of its own."""
    changed = _mapped(config, lambda name, value: False if name == "tie_word_embeddings" else value)
    return {**changed, "tie_word_embeddings": False}


def with_vocabulary(config: Mapping[str, Any], former: int, size: int) -> dict[str, Any]:
    """Return a configuration with another size of the vocabulary, wherever it is the former one."""
    return _mapped(config, lambda name, value: size if name == "vocab_size" and value == former else value)


def vocabulary_sizes(config: Mapping[str, Any]) -> set[int]:
    """Return the sizes of vocabularies that a configuration states."""
    sizes: set[int] = set()

    def note(name: str, value: Any) -> Any:
        if name == "vocab_size" and type(value) is int:
            sizes.add(value)
        return value

    _mapped(config, note)
    return sizes


def _mapped(config: Mapping[str, Any], change: Callable[[str, Any], Any], depth: int = 0) -> dict[str, Any]:
    """Return a configuration with values changed, those of models inside of the model included."""
    return {
        name: _mapped(value, change, depth + 1) if isinstance(value, dict) and depth < _DEEPEST else change(name, value)
        for name, value in config.items()
    }


def _ties(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration ties embeddings: what it does not say is true, as transformers 4 leaves it out."""
    return bool(config) and bool(config.get("tie_word_embeddings", True))


def _fallback(config: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, str]:
    names = config.get("architectures")
    kind = str(names[0]) if isinstance(names, list) and names else ""
    if not kind.endswith(("ForCausalLM", "LMHeadModel")):
        return {}
    return {head: key for key in keys for end, head in _FALLBACKS.items() if key.endswith(end) and head not in keys}
