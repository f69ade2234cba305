"""What a tensor of a checkpoint is for, and so how it is kept: the one place that tells weights from what stands beside them.

An optimizer moves weights: changes of one model's weights are comparable, and one bound of what may be lost goes for all.
Statistics, scales and tables of positions are floats too, but no optimizer moves them. A BatchNorm's running variance is
0.1 % of a model's values and can be 95 % of the squared norm of what a fine-tune changed; an error of 1 % there means nothing
of the kind that it means for weights. They are few, so they are kept exact, and stand outside the sum that a bound is over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import is_floating
from erestore.checkpoint.quantised_weights import find_quantised

_LARGEST = 1 << 16
"""Elements of a statistic at most: a codebook is not a statistic, though averages move it."""

_STATISTIC = re.compile(
    r"""
    (running|moving)_\w+  # BatchNorm of torch, TensorFlow and Keras; normalisers of reinforcement learning
    | num_batches_tracked
    | _?(ema_)?(cluster|code|codebook|embed)_?(size|count|usage)s? | (ema|usage)_counts?  # of a vector quantiser
    | ((pixel|image|latents?|feature|data|target|input|output)s?_)?(mean|std|var|variance)  # of data
    | (\w+_)?(amax|amax_history|min_val|max_val|zero_point)  # observers of quantisation
    | _u | _v | weight_[uv]  # singular vectors of spectral normalisation, one power iteration a step
    | (original_)?inv_freqs? | (freqs|cos|sin)(_(cis|cached|cache|table))?  # rotary positions
    """,
    re.VERBOSE,
)
_TABLE = re.compile(r"freqs_cis|(cos|sin)_(cached|cache|table)")
"""Statistics that are matrices."""
_SCALE = re.compile(r"(weight|input|output|activation|act|[qkv]|kv)_(scales?|scale_inv|zero_point)|scale_inv")
"""Scales of codes or of activations, in blocks or whole. A norm's gain is called ``scale`` by some, and is none."""


class Role(Enum):
    """What a tensor is for.

    Attributes
    ----------
    WEIGHT
        Moved by an optimizer, or nothing is known of it: within the bound that a commit was asked for.
    STATISTIC
        A float that no optimizer moves: exact, combined linearly, and outside of what errors are relative to.
    QUANTISED
        Codes of a quantised weight, or what scales them: exact, outside of what errors are relative to, combined only where
        all that are left are equal. See :mod:`erestore.checkpoint.quantised_weights`.
    """

    WEIGHT = "weight"
    STATISTIC = "statistic"
    QUANTISED = "quantised"


def roles_of(tensors: Mapping[str, TensorInfo], quantisation: Mapping[str, Any] | None = None) -> dict[str, Role]:
    """Tell what a checkpoint's tensors are for, by its own names, dtypes and shapes, and by its ``quantization_config``."""
    quantised = {name for weight in find_quantised(tensors, quantisation) for name in weight.members}
    return {name: Role.QUANTISED if name in quantised else _role_of(info) for name, info in tensors.items()}


def _role_of(info: TensorInfo) -> Role:
    if not is_floating(info.dtype):
        return Role.WEIGHT
    elements = math.prod(info.shape)
    name = re.split(r"[./]", info.name)[-1]
    if _SCALE.fullmatch(name) or (elements == 1 and not info.dtype.startswith("F8")):
        return Role.STATISTIC
    if info.dtype.startswith("F8"):
        return Role.WEIGHT
    is_vector = max(info.shape, default=1) == elements
    if elements <= _LARGEST and _STATISTIC.fullmatch(name) and (is_vector or _TABLE.fullmatch(name)):
        return Role.STATISTIC
    return Role.WEIGHT
