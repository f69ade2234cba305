"""``merge``: variants combined into one, as a commit that remembers how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from erestore.derived import Derived, derive
from erestore.errors import CorruptionError, NotFoundError, UsageError
from erestore.merge.linear import linear_strategy, rational
from erestore.model.combining import Operand, require_one_base
from erestore.model.expressions import is_expression, parse_expression
from erestore.records import Manifest
from erestore.revisions import require_commit
from erestore.store import Store

EXPRESSION = "expression"
"""Strategy of a merge that is given as an expression."""


@dataclass(frozen=True)
class Recipe:
    """How a merge is made; kept with its commit.

    Attributes
    ----------
    strategy : str
    operands : tuple of (str, str, str)
        Name, commit and weight of each.
    options : Mapping[str, str]
        Of the strategy.
    choose : str or None
        What to do about conflicts.
    """

    strategy: str
    operands: tuple[tuple[str, str, str], ...]
    options: Mapping[str, str] = field(default_factory=dict)
    choose: str | None = None

    def to_record(self) -> dict[str, Any]:
        """Return JSON without floats."""
        return {
            "strategy": self.strategy,
            "operands": [{"name": name, "commit": oid, "weight": weight} for name, oid, weight in self.operands],
            "options": dict(self.options),
            "choose": self.choose,
        }

    @classmethod
    def from_record(cls, record: Any) -> Recipe:
        """Read what a commit records."""
        try:
            held = tuple((str(each["name"]), str(each["commit"]), str(each["weight"])) for each in record["operands"])
            return cls(str(record["strategy"]), held, dict(record["options"]), record["choose"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError("A merge's recipe is malformed.") from error


def merge(
    store: Store,
    revisions: Sequence[str],
    *,
    name: str,
    strategy: str | None = None,
    weights: Sequence[Fraction | float | str] | None = None,
    options: Mapping[str, str] | None = None,
    choose: str | None = None,
    message: str = "",
) -> Derived:
    """Combine variants of one base and record the result.

    Parameters
    ----------
    store : Store
    revisions : sequence of str
        Variants; or one expression, if no strategy is given.
    name : str
        Branch.
    strategy : str, optional
        By default ``average``.
    weights : sequence, optional
        One a variant.
    options : Mapping[str, str], optional
        Of the strategy.
    choose : str, optional
        ``ours``, ``theirs`` or ``drop``: what to do about conflicts.
    message : str

    Raises
    ------
    CombinationError
        If there are conflicts and nothing is chosen.
    """
    if strategy in (None, EXPRESSION) and len(revisions) == 1 and is_expression(revisions[0]):
        if weights is not None or options:
            raise UsageError("An expression has its own coefficients.", hint="Leave weights and options out.")
        weighted = [(text, str(weight)) for text, weight in parse_expression(revisions[0]).items()]
        recipe = Recipe(EXPRESSION, _operands(store, weighted), {}, choose)
        return _make(store, name, recipe, message or revisions[0])
    strategy = strategy or "average"
    if not revisions:
        raise UsageError("There is nothing to merge.", hint="Name variants, or write an expression.")
    texts = ["1"] * len(revisions) if weights is None else [str(_rational(weight)) for weight in weights]
    if len(texts) != len(revisions):
        raise UsageError(f"There are {len(revisions)} variants and {len(texts)} weights.", hint="Give one weight each.")
    recipe = Recipe(strategy, _operands(store, list(zip(revisions, texts, strict=True))), dict(options or {}), choose)
    return _make(store, name, recipe, message or f"{strategy} of {_listed(revisions)}")


def unmerge(store: Store, name: str, operand: str, *, message: str = "") -> Derived:
    """Take one operand out of a merge: its recipe without it, as a new version.

    Raises
    ------
    UsageError
        If `name` is not a merge that remembers its operands, or has no other.
    NotFoundError
        If it has no such operand.
    """
    oid = store.ref(name).oid
    assert oid is not None
    commit = store.commit_record(oid)
    if commit.recipe is None or commit.edge != "merged":
        raise UsageError(f"'{name}' is not a merge.", hint=f"`erestore show {name}` says what it is.")
    recipe = Recipe.from_record(commit.recipe)
    left = tuple(each for each in recipe.operands if each[0] != operand)
    if len(left) == len(recipe.operands):
        named = require_commit(store, operand, "An operand") if store.has_ref(operand) or len(operand) >= 4 else operand
        left = tuple(each for each in recipe.operands if each[1] != named)
    if len(left) == len(recipe.operands):
        held = ", ".join(each[0] for each in recipe.operands)
        raise NotFoundError(f"'{operand}' is no operand of '{name}'.", hint=f"Its operands are {held}.")
    if not left:
        raise UsageError(
            f"Without '{operand}' nothing of '{name}' is left.", hint=f"`erestore branch -d {name}` deletes it."
        )
    return _make(store, name, replace(recipe, operands=left), message or f"without {operand}")


def _make(store: Store, name: str, recipe: Recipe, message: str) -> Derived:
    operands = _weighted(store, recipe)
    parents = tuple(dict.fromkeys(operand.commit for operand in operands))
    return derive(
        store,
        name,
        operands,
        parents=parents,
        edge="merged",
        message=message,
        recipe=recipe.to_record(),
        choose=recipe.choose,
    )


def _operands(store: Store, weighted: Sequence[tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, require_commit(store, name, "A merge"), weight) for name, weight in weighted)


def _weighted(store: Store, recipe: Recipe) -> list[Operand]:
    """Return the operands with the coefficients that the strategy gives them."""
    found = []
    for name, oid, weight in recipe.operands:
        record = store.objects.get_record("manifest", store.commit_record(oid).manifest)
        found.append(Operand(_rational(weight), name, oid, Manifest.from_record(record)))
    if recipe.strategy == EXPRESSION:
        return found
    require_one_base(found)

    def gram() -> list[list[float]]:
        from erestore.model.inner import variant_products
        from erestore.model.variant import Variant

        products: list[list[float]] = variant_products(
            [Variant(store.objects, operand.manifest, lossy=True) for operand in found]
        ).tolist()
        return products

    strategy = linear_strategy(recipe.strategy, recipe.options)
    coefficients = strategy.coefficients([operand.coefficient for operand in found], gram)
    return [operand._replace(coefficient=each) for operand, each in zip(found, coefficients, strict=True)]


def _rational(weight: Fraction | float | str) -> Fraction:
    if (found := rational(weight)) is None:
        raise UsageError(f"'{weight}' is not a weight.", hint="Write it as 0.25 or 1/4.")
    return found


def _listed(revisions: Sequence[str]) -> str:
    return (
        ", ".join(revisions) if len(revisions) <= 4 else f"{', '.join(revisions[:3])} and {len(revisions) - 3} others"
    )
