"""Heads over classes that the base has under the same name and in the same shape: combined where the classes are the same.

Two such heads are residuals like any other, but where ``config.json`` calls their classes otherwise, a row of one is not
the same row of the other, and their mean is not a head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from erestore.algebra.chosen_tensors import ChosenTensors
from erestore.algebra.conflicts import LABELS, Conflicts
from erestore.algebra.operands import Combined, Operand
from erestore.algebra.sums import Parts, sum_terms
from erestore.algebra.vocabulary import OTHER_CLASSES, ClassLabels, class_labels
from erestore.checkpoint.dtypes import is_floating

_NAMED = re.compile(r"class|score|logit|head|label")


def decide_labelled_heads(combined: Combined, conflicts: Conflicts, selection: ChosenTensors) -> dict[str, Parts]:
    """Note a conflict over every head of the base that variants with other classes change.

    Returns
    -------
    dict of str to Parts
        What the result holds whole of these, by key; what has to be computed is with `selection`.
    """
    labels = [class_labels(combined, operand) for operand in combined.operands] if combined.differ else []
    if len(set(labels) - {None}) < 2:
        return {}
    dense = {}
    for key in sorted(_heads(combined, labels)):
        if places := _disagreeing(combined, labels, key):
            index = conflicts.decide_operand(LABELS, key, [key], OTHER_CLASSES, places)
            if index is not None and (parts := selection.take(index, key)):
                dense[key] = parts
    return dense


def _heads(combined: Combined, labels: list[ClassLabels | None]) -> Iterator[str]:
    """Yield the keys of the base's tensors that are heads over as many classes as an operand has, weights and biases."""
    counts = {len(classes.names) for classes in labels if classes is not None}
    base = combined.base
    for key, tensor in base.items():
        if is_floating(tensor.dtype) and _is_head(key, tensor.shape, counts):
            yield key
            bias = f"{key.rpartition('.')[0]}.bias"
            if bias in base and base[bias].shape == tensor.shape[:1]:
                yield bias


def _is_head(key: str, shape: tuple[int, ...], counts: set[int]) -> bool:
    """Return whether a matrix has a row for each class; by its name alone one with a row for "none of them" counts, too."""
    if len(shape) < 2 or not key.endswith(".weight"):
        return False
    if _NAMED.search(key):
        return shape[0] in counts or shape[0] - 1 in counts
    is_in_layers = any(part.isdecimal() for part in key.split("."))
    return shape[0] in counts and not is_in_layers and "embed" not in key


def _disagreeing(combined: Combined, labels: list[ClassLabels | None], key: str) -> list[int]:
    """Return the indices of the operands that have a head, if what is left of it is of several lists of classes.

    Of operands with the same classes what they change may cancel, as of a commit and its parent. A head that was left as
    it is in the base counts as well, unless its coefficients cancel or the operand is the base.
    """
    places: dict[ClassLabels, list[int]] = {}
    for index, (operand, classes) in enumerate(zip(combined.operands, labels, strict=True)):
        if classes is not None and combined.has(operand, key):
            places.setdefault(classes, []).append(index)
    changing = [members for members in places.values() if _changes(combined, members, key)]
    still = [members for members in places.values() if members not in changing and _counts(combined, members)]
    left = changing + still
    return sorted(index for members in left for index in members) if changing and len(left) > 1 else []


def _changes(combined: Combined, places: list[int], key: str) -> bool:
    operands = [combined.operands[index] for index in places]
    if any(key in operand.manifest.dense for operand in operands):
        return True
    terms = {term.residual for operand in operands for term in combined.terms(operand, key)}
    return any(term.residual in terms for term in sum_terms(operands))


def _counts(combined: Combined, places: list[int]) -> bool:
    operands: list[Operand] = [combined.operands[index] for index in places]
    is_base = all(combined.is_base(operand) for operand in operands)
    return not is_base and sum((operand.coefficient for operand in operands), Fraction(0)) != 0
