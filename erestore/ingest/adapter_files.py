"""Where an adapter's side files are in the checkout of the adapted model.

What was trained or saved with the adapter is what its library loads beside it, so it stands where the base's stood: tokenizer
and chat template, prompts, configurations of modules. What describes the adapter alone is in a folder that no library looks
into by itself; at the root ``adapter_config.json`` would make transformers and sentence-transformers look for an adapter to
add to weights that have it already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from erestore.algebra.vocabulary import VOCABULARIES
from erestore.checkpoint.peft_configuration import CONFIGURATION

FOLDER = "adapter"
"""Of what belongs to the adapter alone."""

_ALONE = ("README.md", "config.json", "training_args.bin", "trainer_state.json")
"""At the root: the adapter's model card and state of its training, and a configuration that may not be the adapted model's:
``config.json`` stays the base's, with the sizes that the adapter changed."""

_TOKENIZER = "tokenizer_config.json"
_TOKENIZER_FILES = VOCABULARIES | {
    "tokenizer.json",
    _TOKENIZER,
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "sentencepiece.bpe.model",
    "spm.model",
    "tekken.json",
}


def adapted_places(
    names: Iterable[str], parent: Collection[str], weights: Collection[str], unread: Collection[str]
) -> dict[str, str]:
    """Return where each of an adapter's side files is in the checkout.

    Parameters
    ----------
    names : iterable of str
        POSIX paths of the adapter's side files.
    parent : collection of str
        Those of the parent's side files.
    weights : collection of str
        Those of the weight files of the result.
    unread : collection of str
        Those of the adapter's side files that hold weights, which are not read.
    """
    return {name: f"{FOLDER}/{name}" if _is_alone(name, parent, weights, unread) else name for name in names}


def replaced(names: Collection[str], parent: Iterable[str]) -> set[str]:
    """Return which of the parent's side files have no place beside an adapter's.

    Those of a former adapter, and of a tokenizer where the adapter has one of its own: files of two do not mix. A template
    that the adapter's tokenizer lacks would be applied to it, and so would added tokens.
    """
    parent = set(parent)
    folders = {_folder(name) for name in names if _base_name(name) == _TOKENIZER}
    tokenizers = {folder for folder in folders if _has_vocabulary(folder, names)}
    obsolete = {
        name
        for name in parent
        if _folder(name) in tokenizers and _base_name(name) in _TOKENIZER_FILES and name not in names
    }
    if f"{FOLDER}/{CONFIGURATION}" in parent:
        obsolete |= {name for name in parent if name.startswith(FOLDER + "/")}
    return obsolete


def _is_alone(name: str, parent: Collection[str], weights: Collection[str], unread: Collection[str]) -> bool:
    base_name = _base_name(name)
    if base_name == CONFIGURATION or base_name.startswith("adapter_model.") or name in weights:
        return True
    return name in _ALONE or (name in unread and name not in parent)


def _has_vocabulary(folder: str, names: Collection[str]) -> bool:
    return any(
        _folder(name) == folder
        and (
            _base_name(name) in VOCABULARIES - {"added_tokens.json"}
            or _base_name(name) == "tokenizer.json"
            or name.endswith(".model")
        )
        for name in names
    )


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]
