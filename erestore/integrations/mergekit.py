"""Merge configurations of mergekit, as merges of variants.

A key either has a meaning here, or is refused by name: nothing is passed over, though mergekit passes over some itself.
The format is that of mergekit 0.1 (``mergekit/config.py``, ``docs/merge_methods.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from erestore.integrations.parameters import Parameters, refuse, shown


@dataclass(frozen=True)
class MergekitMerge:
    """A merge as a configuration asks for it.

    Attributes
    ----------
    strategy : str
    models : tuple of str
        Names of the operands.
    weights : tuple of Fraction or None
        One for each, where the strategy has weights.
    options : Mapping[str, str]
        Of the strategy.
    base_model : str or None
        What has to be the base of the models.
    dtypes : tuple of str
        Data types that the result has to have, as torch calls them.
    base_vocabulary : bool
        Whether the result has the vocabulary of the base.
    differs : str
        Where the result is not that of mergekit, in a sentence; empty where it is.
    """

    strategy: str
    models: tuple[str, ...]
    weights: tuple[Fraction, ...] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    base_model: str | None = None
    dtypes: tuple[str, ...] = ()
    base_vocabulary: bool = False
    differs: str = ""


_KNOWN = frozenset({"merge_method", "models", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source"})
_REFUSED = {
    "slices": "Layers are not taken apart here: list whole models under `models`.",
    "modules": "Modules are not taken apart here: list whole models under `models`.",
    "tokenizer": "The vocabulary is the base's: leave it out, or write `tokenizer_source: base`.",
    "chat_template": "Files are those of the first model: leave it out, and change the checkpoint after checkout.",
}
_SLERP = (
    "mergekit interpolates whole weights tensor by tensor, which between variants of one base is nearly `linear` with the "
    "weights 1 - t and t; here what they changed of it is interpolated, by one angle for the whole model."
)
_STOCK = "mergekit takes a ratio for each tensor; here there is one for the whole model."
_DARE = "mergekit drops other values at random, and gives what is left its former L1 norm; here it is divided by the density."


def read_mergekit(document: Any) -> MergekitMerge:
    """Return the merge that a configuration stands for.

    Parameters
    ----------
    document : object
        What a YAML file holds.

    Raises
    ------
    UsageError
        If it has a key, a method or a value that has no meaning here; it is named.
    """
    if not isinstance(document, dict):
        refuse("it is not a merge configuration", "Write `merge_method: ...` and `models: ...`, as for mergekit.")
    for key in document:
        if key not in _KNOWN:
            hint = _REFUSED.get(key, f"Leave it out; there are {', '.join(sorted(_KNOWN))}.")
            refuse(f"`{shown(key)}` has no meaning for a merge of variants", hint)
    name = document.get("merge_method")
    if not isinstance(name, str) or name not in _METHODS:
        refuse(
            f"`merge_method: {shown(name)}` is none of the methods that are merged here"
            if name is not None
            else "`merge_method` is missing",
            f"Use {', '.join(_METHODS)}; `erestore merge --strategy` has more.",
        )
    method = _METHODS[name]
    base_model = _base_model(document)
    parameters = Parameters.read(document, name, method.of_models, method.of_all)
    if method.takes_base and base_model is None:
        refuse(f"`base_model` is missing, which {name} is relative to", "Add `base_model: NAME` of the models' base.")
    merge = method.read(parameters, base_model)
    return replace(
        merge,
        dtypes=tuple(_dtype(document, key) for key in ("dtype", "out_dtype") if document.get(key) is not None),
        base_vocabulary=_base_vocabulary(document),
    )


def _linear(parameters: Parameters, base_model: str | None) -> MergekitMerge:
    if base_model is not None and base_model not in parameters.models:
        parameters = parameters.with_model(base_model)  # mergekit counts it as one more to be averaged
    weights = parameters.per_model("weight")
    if not parameters.flag("normalize", default=True) and sum(weights) != 1:
        refuse(
            "`normalize: false` with weights that do not sum to 1 scales the base too",
            "Use merge_method: task_arithmetic, or weights that sum to 1.",
        )
    return MergekitMerge("weighted", parameters.models, weights, base_model=None)


def _task_arithmetic(parameters: Parameters, base_model: str | None) -> MergekitMerge:
    parameters = parameters.without_model(base_model)
    _mask(parameters)
    weights, scale = parameters.per_model("weight"), parameters.number("lambda", default=1)
    if not parameters.flag("normalize", default=False):
        return MergekitMerge("task-arithmetic", parameters.models, weights, {"scale": str(scale)}, base_model)
    if scale != 1:
        refuse("`lambda` together with `normalize: true` is not supported", "Scale the weights instead.")
    return MergekitMerge("weighted", parameters.models, weights, base_model=base_model)


def _ties(parameters: Parameters, base_model: str | None) -> MergekitMerge:
    parameters = parameters.without_model(base_model)
    _mask(parameters)
    if parameters.flag("rescale", default=False):
        refuse("`rescale: true` is not supported for ties", "Leave it out.")
    options = {
        "density": str(parameters.same("density", default=1)),
        "combine": "mean" if parameters.flag("normalize", default=True) else "sum",
        "scale": str(parameters.number("lambda", default=1)),
    }
    return MergekitMerge("ties", parameters.models, parameters.per_model("weight"), options, base_model)


def _dare(merge_by: str) -> _Read:
    def read(parameters: Parameters, base_model: str | None) -> MergekitMerge:
        parameters = parameters.without_model(base_model)
        _mask(parameters)
        if not parameters.flag("rescale", default=True):
            refuse("`rescale: false` is not supported", "Leave it out: what is left is made up for what is dropped.")
        normalize = parameters.flag("normalize", default=False)
        density = parameters.same("density", default=1)
        options = {
            "density": str(density),
            "merge_by": merge_by,
            "scale": str(parameters.number("lambda", default=1)),
        }
        if merge_by == "ties":
            options["combine"] = "mean" if normalize else "sum"
        elif normalize:
            refuse("`normalize: true` is not supported for dare_linear", "Give weights that sum to 1.")
        differs = "" if density == 1 else _DARE
        return MergekitMerge(
            "dare", parameters.models, parameters.per_model("weight"), options, base_model, differs=differs
        )

    return read


def _model_stock(parameters: Parameters, base_model: str | None) -> MergekitMerge:
    parameters = parameters.without_model(base_model)
    if parameters.flag("filter_wise", default=False):
        refuse("`filter_wise: true` is not supported", "Leave it out.")
    return MergekitMerge("model-stock", parameters.models, base_model=base_model, differs=_STOCK)


def _slerp(parameters: Parameters, base_model: str | None) -> MergekitMerge:
    """In mergekit one of the two is the base_model, from which `t` counts; where it is neither, it is the base of both."""
    models = parameters.models
    if base_model is not None and base_model not in models and len(models) == 1:
        models = (base_model, *models)
    if len(models) != 2:
        refuse(f"slerp is between two models, and there are {len(models)}", "List two under `models`.")
    if base_model in models:
        models = (str(base_model), *(name for name in models if name != base_model))
        base_model = None
    options = {"t": str(parameters.number("t"))}
    return MergekitMerge("slerp", models, None, options, base_model, differs=_SLERP)


def _mask(parameters: Parameters) -> None:
    """Read ``int8_mask``: in how little memory mergekit holds signs says nothing of the result."""
    parameters.flag("int8_mask", default=False)


def _base_model(document: Mapping[str, Any]) -> str | None:
    name = document.get("base_model")
    if name is not None and not isinstance(name, str):
        refuse("`base_model` is not a name", "Write the name of a base; quote what looks like a number.")
    return name


def _dtype(document: Mapping[str, Any], key: str) -> str:
    name = document[key]
    if not isinstance(name, str):
        refuse(f"`{key}: {shown(name)}` is not a data type", "Write one such as float32 or bfloat16, or leave it out.")
    return name.removeprefix("torch.")


def _base_vocabulary(document: Mapping[str, Any]) -> bool:
    source = document.get("tokenizer_source")
    if source not in (None, "base"):
        refuse(
            f"`tokenizer_source: {shown(source)}` is not done here: added words are merged where all models have the same",
            "Leave it out, or write `tokenizer_source: base`.",
        )
    return source == "base"


_Read = Callable[[Parameters, str | None], MergekitMerge]


@dataclass(frozen=True)
class _Method:
    """How a method is read, the parameters of a model, those of all, and whether it is relative to a base."""

    read: _Read
    of_models: Sequence[str] = ()
    of_all: Sequence[str] = ()
    takes_base: bool = True


_METHODS: Mapping[str, _Method] = {
    "linear": _Method(_linear, ("weight",), ("normalize",), takes_base=False),
    "task_arithmetic": _Method(_task_arithmetic, ("weight",), ("lambda", "normalize", "int8_mask")),
    "ties": _Method(_ties, ("weight", "density"), ("lambda", "normalize", "rescale", "int8_mask")),
    "dare_linear": _Method(_dare("linear"), ("weight", "density"), ("lambda", "normalize", "rescale", "int8_mask")),
    "dare_ties": _Method(_dare("ties"), ("weight", "density"), ("lambda", "normalize", "rescale", "int8_mask")),
    "slerp": _Method(_slerp, (), ("t",)),
    "model_stock": _Method(_model_stock, (), ("filter_wise",)),
}
