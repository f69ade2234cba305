"""``merge``: variants combined into one, as a commit that remembers how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from erestore.derived import Derived, derive
from erestore.errors import CorruptionError, NotFoundError, UsageError
from erestore.merge.linear import Average, LinearStrategy
from erestore.merge.numbers import rational
from erestore.merge.registry import strategy as strategy_of
from erestore.model.combining import Operand, require_one_base
from erestore.model.expressions import is_expression, parse_expression
from erestore.progress import Progress, silent
from erestore.records import Layout, Manifest
from erestore.revisions import require_commit
from erestore.store import Store

if TYPE_CHECKING:
    from erestore.merge.elementwise import ElementwiseStrategy
    from erestore.merge.spectral import SpectralStrategy
    from erestore.model.committing import StoredVariant

EXPRESSION = "expression"
"""Strategy of a merge that is given as an expression."""
MERGE_ERROR = 0.001
"""What is lost by default of a merge that has to be encoded."""


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
    max_error : str or None
        Of a merge that is no linear combination, and is encoded: most of it that may be lost.
    """

    strategy: str
    operands: tuple[tuple[str, str, str], ...]
    options: Mapping[str, str] = field(default_factory=dict)
    choose: str | None = None
    max_error: str | None = None

    def to_record(self) -> dict[str, Any]:
        """Return JSON without floats."""
        return {
            "strategy": self.strategy,
            "operands": [{"name": name, "commit": oid, "weight": weight} for name, oid, weight in self.operands],
            "options": dict(self.options),
            "choose": self.choose,
            "max_error": self.max_error,
        }

    @classmethod
    def from_record(cls, record: Any) -> Recipe:
        """Read what a commit records."""
        try:
            held = tuple((str(each["name"]), str(each["commit"]), str(each["weight"])) for each in record["operands"])
            return cls(
                str(record["strategy"]), held, dict(record["options"]), record["choose"], record.get("max_error")
            )
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
    max_error: float | None = None,
    choose: str | None = None,
    message: str = "",
    progress: Progress = silent,
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
    max_error : float, optional
        For a strategy whose result is no linear combination and has to be encoded: most of the squared norm of what it
        changes of the base that may be lost; by default :data:`MERGE_ERROR`.
    choose : str, optional
        ``ours``, ``theirs`` or ``drop``: what to do about conflicts.
    message : str
    progress : Progress

    Raises
    ------
    CombinationError
        If there are conflicts and nothing is chosen.
    """
    if strategy in (None, EXPRESSION) and len(revisions) == 1 and is_expression(revisions[0]):
        if weights is not None or options or max_error is not None:
            raise UsageError("An expression has its own coefficients.", hint="Leave weights and options out.")
        weighted = [(text, str(weight)) for text, weight in parse_expression(revisions[0]).items()]
        recipe = Recipe(EXPRESSION, _operands(store, weighted), {}, choose)
        return _make(store, name, recipe, message or revisions[0], progress)
    strategy = strategy or "average"
    if not revisions:
        raise UsageError("There is nothing to merge.", hint="Name variants, or write an expression.")
    texts = ["1"] * len(revisions) if weights is None else [str(_rational(weight)) for weight in weights]
    if len(texts) != len(revisions):
        raise UsageError(f"There are {len(revisions)} variants and {len(texts)} weights.", hint="Give one weight each.")
    operands = _operands(store, list(zip(revisions, texts, strict=True)))
    error = None if max_error is None else repr(max_error)
    recipe = Recipe(strategy, operands, dict(options or {}), choose, error)
    return _make(store, name, recipe, message or f"{strategy} of {_listed(revisions)}", progress)


def unmerge(store: Store, name: str, operand: str, *, message: str = "", progress: Progress = silent) -> Derived:
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
    return _make(store, name, replace(recipe, operands=left), message or f"without {operand}", progress)


def _make(store: Store, name: str, recipe: Recipe, message: str, progress: Progress) -> Derived:
    operands = _opened(store, recipe)
    encode = None
    if recipe.strategy != EXPRESSION:
        require_one_base(operands)
        chosen = strategy_of(recipe.strategy, recipe.options)
        weights = [operand.coefficient for operand in operands]
        if isinstance(chosen, LinearStrategy):
            if recipe.max_error is not None:
                raise UsageError(
                    f"{chosen.name} is exact: its result is a manifest, of which nothing is lost.",
                    hint="Leave --max-error out.",
                )
            found = chosen.coefficients(weights, partial(_gram, store, operands))
        else:
            encode = partial(_nonlinear, store, chosen, operands, recipe, progress)
            found = Average().coefficients(weights, list)  # of what is held whole
        operands = [operand._replace(coefficient=each) for operand, each in zip(operands, found, strict=True)]
    return derive(
        store,
        name,
        operands,
        parents=tuple(dict.fromkeys(operand.commit for operand in operands)),
        edge="merged",
        message=message,
        recipe=recipe.to_record(),
        choose=recipe.choose,
        encode=encode,
    )


def _gram(store: Store, operands: Sequence[Operand]) -> list[list[float]]:
    from erestore.model.inner import variant_products
    from erestore.model.variant import Variant

    variants = [Variant(store.objects, operand.manifest, lossy=True) for operand in operands]
    products: list[list[float]] = variant_products(variants).tolist()
    return products


def _nonlinear(
    store: Store,
    strategy: ElementwiseStrategy | SpectralStrategy,
    operands: Sequence[Operand],
    recipe: Recipe,
    progress: Progress,
    manifest: Manifest,
    layout: Layout,
) -> StoredVariant:
    from erestore.model.computed import write_computed
    from erestore.model.merging import NonlinearMerge
    from erestore.model.quality import Quality
    from erestore.model.variant import Variant

    variants = [Variant(store.objects, operand.manifest, lossy=True) for operand in operands]
    weights = [float(_rational(weight)) for _, _, weight in recipe.operands]
    result = Variant(store.objects, manifest, layout=layout)
    compute = NonlinearMerge(strategy, variants, weights, result)
    quality = Quality(max_error=MERGE_ERROR if recipe.max_error is None else float(recipe.max_error))
    return write_computed(store.objects, result, quality, compute=compute, progress=progress)


def _operands(store: Store, weighted: Sequence[tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, require_commit(store, name, "A merge"), weight) for name, weight in weighted)


def _opened(store: Store, recipe: Recipe) -> list[Operand]:
    """Return the operands, with their weights as coefficients."""
    found = []
    for name, oid, weight in recipe.operands:
        record = store.objects.get_record("manifest", store.commit_record(oid).manifest)
        found.append(Operand(_rational(weight), name, oid, Manifest.from_record(record)))
    return found


def _rational(weight: Fraction | float | str) -> Fraction:
    if (found := rational(weight)) is None:
        raise UsageError(f"'{weight}' is not a weight.", hint="Write it as 0.25 or 1/4.")
    return found


def _listed(revisions: Sequence[str]) -> str:
    return (
        ", ".join(revisions) if len(revisions) <= 4 else f"{', '.join(revisions[:3])} and {len(revisions) - 3} others"
    )
