"""``soup``: the mean of variants, of all or of those that make it better (Wortsman et al. 2022, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from erestore.algebra.combine import combine
from erestore.algebra.operands import Operand
from erestore.errors import UsageError
from erestore.history.derive import Derived, derive
from erestore.history.revision import open_operand, require_commit
from erestore.store import Store
from erestore.variant.state_dict import StateDict
from erestore.variant.variant import Variant


class Tried(NamedTuple):
    """One candidate: the names in it, its score, and whether the soup went on with it."""

    operands: tuple[str, ...]
    score: float
    kept: bool


@dataclass(frozen=True)
class SoupResult:
    """What ``soup`` did.

    Attributes
    ----------
    made : Derived
    tried : tuple of Tried
        In order; empty without a score.
    """

    made: Derived
    tried: tuple[Tried, ...]


def soup(
    store: Store,
    revisions: Sequence[str],
    *,
    name: str,
    evaluate: Callable[[StateDict], float] | None = None,
    minimise: bool = False,
    choose: str | None = None,
    message: str = "",
    tried: Callable[[Tried], None] = lambda _: None,
) -> SoupResult:
    """Record the mean of variants.

    Parameters
    ----------
    store : Store
    revisions : sequence of str
    name : str
        Branch of the result.
    evaluate : Callable, optional
        Scores a candidate, whose tensors are read when they are asked for: ``model.load_state_dict(candidate)`` applies them
        to a live model. Then the soup is greedy: variants are taken best first, and each stays if the mean with it
        scores no worse than without.
    minimise : bool
        Whether a smaller score is a better one.
    choose : str, optional
        What to do about conflicts.
    message : str
    tried : Callable
        Told of every candidate.

    Raises
    ------
    CombinationError
        If the variants cannot be combined as they are.
    UsageError
        If a score is not a number.
    """
    if not revisions:
        raise UsageError("There is nothing to merge.", hint="Name variants.")
    operands = [_operand(store, revision) for revision in dict.fromkeys(revisions)]
    runs: list[Tried] = []
    selected = operands
    if evaluate is not None:
        selected = _greedy(store, operands, evaluate, runs, minimise=minimise, choose=choose, tried=tried)
    recipe: dict[str, Any] = {
        "strategy": "average",
        "operands": [{"name": operand.name, "commit": operand.commit, "weight": "1"} for operand in selected],
        "options": {},
        "choose": choose,
    }
    if runs:
        recipe["tried"] = [{"operands": list(run.operands), "score": repr(run.score), "kept": run.kept} for run in runs]
    kind = "greedy soup" if evaluate else "soup"
    derived = derive(
        store,
        name,
        _mean(selected),
        parents=tuple(dict.fromkeys(operand.commit for operand in selected)),
        edge="merged",
        message=message or f"{kind} of {len(selected)} of {len(operands)} variants",
        recipe=recipe,
        choose=choose,
    )
    return SoupResult(derived, tuple(runs))


def _operand(store: Store, revision: str) -> Operand:
    return open_operand(store, Fraction(1), revision, require_commit(store, revision, "A soup"))


def _mean(operands: Sequence[Operand]) -> list[Operand]:
    return [operand._replace(coefficient=Fraction(1, len(operands))) for operand in operands]


def _greedy(
    store: Store,
    operands: Sequence[Operand],
    evaluate: Callable[[StateDict], float],
    runs: list[Tried],
    *,
    minimise: bool,
    choose: str | None,
    tried: Callable[[Tried], None],
) -> list[Operand]:
    def score(candidate: Sequence[Operand], best: float | None) -> float:
        combined = combine(store.objects, _mean(candidate), choose)
        value = float(evaluate(StateDict(Variant(store.objects, combined.manifest, layout=combined.layout))))
        if not math.isfinite(value):
            raise UsageError(
                f"The score of {', '.join(operand.name for operand in candidate)} is {value}, which is not a score."
            )
        improves = best is not None and (value <= best if minimise else value >= best)
        runs.append(Tried(tuple(operand.name for operand in candidate), value, improves))
        tried(runs[-1])
        return value

    combine(store.objects, _mean(operands), choose)  # conflicts show before anything is run
    alone = [score([operand], None) for operand in operands]
    order = sorted(range(len(operands)), key=lambda index: alone[index] if minimise else -alone[index])
    selected, best = [operands[order[0]]], alone[order[0]]
    runs[order[0]] = runs[order[0]]._replace(kept=True)
    for index in order[1:]:
        value = score([*selected, operands[index]], best)
        if runs[-1].kept:
            selected, best = [*selected, operands[index]], value
    return selected
