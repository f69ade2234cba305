"""Variants as live models, and texts as their inputs: what verbs that run a model have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.checkpoint.write import write_checkpoint
from erestore.errors import CheckpointError, UsageError
from erestore.variant.variant import Variant
from erestore.variant.write import write_variant

if TYPE_CHECKING:
    import torch

    from erestore.analysis.inference.input_moments import ModelInputs

Examples = Iterable["str | ModelInputs"]
"""Texts, which take the variant's own tokenizer, or inputs of the model."""


def load_live(variant: Variant, directory: Path) -> torch.nn.Module:
    """Load a variant as its library reads it, by way of a directory that does not exist yet.

    Weights under names that the library does not expect, as training frameworks give them, are made up by it: the caller puts
    the variant's own in.

    Raises
    ------
    UsageError
        If transformers is not installed.
    CheckpointError
        If it is a bare file, no model that transformers knows, or one that takes more than texts.
    """
    from erestore.integrations.transformers import load_model, require_transformers

    require_transformers()
    if not variant.layout.is_directory:
        raise CheckpointError(
            "This is a bare file of weights, which does not say what model they are of.",
            hint="Give a live model and its inputs from Python: the arguments `model` and `inputs`.",
        )
    write_variant(variant, directory, format="safetensors")
    return load_model(directory)


def tokenized(variant: Variant, directory: Path, texts: Sequence[str], model: torch.nn.Module) -> Sequence[ModelInputs]:
    """Turn texts into a model's inputs with a variant's own tokenizer, by way of a directory that does not exist yet.

    Raises
    ------
    CheckpointError
        If it is a bare file, or has no tokenizer that knows a word of these texts.
    """
    from erestore.integrations.transformers import tokenize

    layout = variant.layout
    if not layout.is_directory:
        raise CheckpointError(
            "This is a bare file of weights, which has no tokenizer.",
            hint="Give inputs of the model instead of texts, from Python: the argument `inputs`.",
        )
    write_checkpoint(
        directory,
        replace(layout, files=(), tensors={}, ties=()),
        lambda _: (),
        lambda name: variant.objects.iter_blob(layout.side_files[name]),
    )
    return tokenize(directory, texts, getattr(getattr(model, "config", None), "max_position_embeddings", None))


def split_texts_and_inputs(examples: Examples) -> tuple[list[str] | None, Iterator[ModelInputs]]:
    """Return texts and nothing else, or None and inputs of a model as they come.

    Raises
    ------
    UsageError
        If there are no examples, or of both kinds; of inputs, when they are taken.
    """
    rest = iter(examples)
    first = next(rest, None)
    if first is None:
        raise UsageError("There are no examples to run a model on.", hint="Give some texts or inputs of the model.")
    stream = chain([first], rest)
    if not isinstance(first, str):
        return None, _model_inputs(stream)
    listed = list(stream)
    texts = [example for example in listed if isinstance(example, str)]
    if len(texts) < len(listed):
        raise _mixed()
    return texts, iter(())


def _model_inputs(examples: Iterable[str | ModelInputs]) -> Iterator[ModelInputs]:
    for example in examples:
        if isinstance(example, str):
            raise _mixed()
        yield example


def _mixed() -> UsageError:
    return UsageError("Texts and inputs of a model are mixed.", hint="Give examples of one kind.")
