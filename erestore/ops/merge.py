"""``merge``: variants combined into one, as a commit that remembers how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.algebra.expression import is_expression, parse_expression
from erestore.algebra.operands import Operand, require_one_base
from erestore.algebra.recipe import Recipe
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.open import open_checkpoint
from erestore.encoding.quality import require_max_error
from erestore.errors import NotFoundError, UnknownRevisionError, UsageError
from erestore.history.derive import Derived, derive, total_weights
from erestore.history.merge_configuration import checked_recipe
from erestore.history.revision import open_operand, require_commit, with_base_share
from erestore.ingest.fingerprint import original_digest
from erestore.merge.abc import MergeStrategy
from erestore.merge.configuration import rational
from erestore.merge.linear import Average, LinearStrategy
from erestore.merge.registry import strategy as named_strategy
from erestore.progress import Progress, silent
from erestore.records import Layout, Manifest
from erestore.store import Store

if TYPE_CHECKING:
    from erestore.arrays import Array
    from erestore.encoding.merged_delta import Statistics
    from erestore.ingest.variant_writer import StoredVariant

EXPRESSION = "expression"
"""Strategy of a merge that is given as an expression."""
MERGE_ERROR = 0.001
"""What is lost by default of a merge that has to be encoded."""


@dataclass(frozen=True)
class RecipeResult:
    """What ``merge --recipe`` did.

    Attributes
    ----------
    made : Derived
    differs : str
        Where the result is not that of mergekit, in a sentence; empty where it is.
    """

    made: Derived
    differs: str


def merge(
    store: Store,
    revisions: Sequence[str],
    *,
    name: str,
    strategy: str | None = None,
    weights: Sequence[Fraction | float | str] | None = None,
    options: Mapping[str, str] | None = None,
    max_error: float | None = None,
    statistics: Sequence[str | Path] = (),
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
    statistics : sequence of str or Path
        For a strategy that needs to know more of each variant than its weights: files of tensors under the variant's names,
        squared gradients for ``fisher``, second moments of the inputs of linear layers for ``regmean``.
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
        if weights is not None or options or max_error is not None or statistics:
            raise UsageError("An expression has its own coefficients.", hint="Leave weights and options out.")
        weighted = [(text, str(weight)) for text, weight in parse_expression(revisions[0]).items()]
        recipe = Recipe(EXPRESSION, _operands(store, weighted), {}, choose)
        return _make(store, name, recipe, message or revisions[0], (), progress)
    strategy = strategy or "average"
    if not revisions:
        raise UsageError("There is nothing to merge.", hint="Name variants, or write an expression.")
    texts = ["1"] * len(revisions) if weights is None else [str(_rational(weight)) for weight in weights]
    if len(texts) != len(revisions):
        raise UsageError(f"There are {len(revisions)} variants and {len(texts)} weights.", hint="Give one weight each.")
    if max_error is not None:
        require_max_error(max_error)
    operands = _operands(store, list(zip(revisions, texts, strict=True)))
    error = None if max_error is None else repr(max_error)
    recipe = Recipe(strategy, operands, dict(options or {}), choose, error)
    return _make(store, name, recipe, message or f"{strategy} of {_listed(revisions)}", statistics, progress)


def merge_recipe(
    store: Store,
    path: str | Path,
    *,
    name: str,
    max_error: float | None = None,
    choose: str | None = None,
    message: str = "",
    progress: Progress = silent,
) -> RecipeResult:
    """Combine variants as a merge configuration of mergekit says, and record the result.

    Parameters
    ----------
    store : Store
    path : str or Path
        A YAML file. The models that it names are revisions of the store.
    name : str
        Branch.
    max_error, choose, message, progress
        As of :func:`merge`.

    Raises
    ------
    UsageError
        If the file has a key or a value that has no meaning for a merge of variants; it is named.
    CombinationError
        If there are conflicts and nothing is chosen.
    """
    configuration = checked_recipe(store, Path(path))
    derived = merge(
        store,
        configuration.models,
        name=name,
        strategy=configuration.strategy,
        weights=configuration.weights,
        options=configuration.options,
        max_error=max_error,
        choose=choose,
        message=message,
        progress=progress,
    )
    return RecipeResult(derived, configuration.differs)


def unmerge(store: Store, name: str, operand: str, *, message: str = "", progress: Progress = silent) -> Derived:
    """Remove one operand from a merge: its recipe without it, as a new version.

    Raises
    ------
    UsageError
        If `name` is not a merge that remembers its operands, or has no other.
    NotFoundError
        If it has no such operand.
    """
    if not store.has_ref(name):
        require_commit(store, name, "A merge")
        raise UsageError(f"'{name}' is not a branch. Only a branch can get a new version.", hint="Name the branch.")
    oid = store.ref(name).oid
    assert oid is not None
    commit = store.commit_record(oid)
    if commit.recipe is None or commit.edge != "merged":
        raise UsageError(f"'{name}' is not a merge.", hint=f"`erestore show {name}` says what it is.")
    recipe = Recipe.from_record(commit.recipe)
    if recipe.statistics:
        raise UsageError(
            f"'{name}' was merged with statistics of its operands, which are not kept.",
            hint="Merge the others again, with their statistics.",
        )
    left = tuple(entry for entry in recipe.operands if entry[0] != operand)
    if len(left) == len(recipe.operands):
        try:
            named = require_commit(store, operand, "An operand")
        except UnknownRevisionError:
            named = operand
        left = tuple(entry for entry in recipe.operands if entry[1] != named)
    if len(left) == len(recipe.operands):
        names = ", ".join(entry[0] for entry in recipe.operands)
        raise NotFoundError(f"'{operand}' is not an operand of '{name}'.", hint=f"Its operands are {names}.")
    if not left:
        raise UsageError(
            f"Without '{operand}' nothing of '{name}' is left.", hint=f"`erestore branch -d {name}` deletes it."
        )
    return _make(store, name, replace(recipe, operands=left), message or f"without {operand}", (), progress, oid)


def _make(
    store: Store,
    name: str,
    recipe: Recipe,
    message: str,
    statistics: Sequence[str | Path],
    progress: Progress,
    tip: str | None = None,
) -> Derived:
    with ExitStack() as stack:
        checkpoints = [stack.enter_context(open_checkpoint(Path(path))) for path in statistics]
        recipe = replace(recipe, statistics=tuple(map(original_digest, checkpoints)))
        return _make_with(store, name, recipe, message, checkpoints, progress, tip)


def _make_with(
    store: Store,
    name: str,
    recipe: Recipe,
    message: str,
    statistics: Sequence[Checkpoint],
    progress: Progress,
    tip: str | None,
) -> Derived:
    operands = _opened(store, recipe)
    encode, counted = None, None
    if recipe.strategy != EXPRESSION:
        require_one_base(operands)
        strategy = named_strategy(recipe.strategy, recipe.options)
        recipe = replace(recipe, options=strategy.configuration())
        weights = [operand.coefficient for operand in operands]
        strategy.check(weights)
        _check_statistics(strategy, len(operands), len(statistics))
        if isinstance(strategy, LinearStrategy):
            if recipe.max_error is not None:
                raise UsageError(
                    f"{strategy.name} is exact: its result is a manifest, of which nothing is lost.",
                    hint="Leave --max-error out.",
                )
            coefficients = strategy.coefficients(weights, partial(_gram, store, operands))
        else:
            lookups = [_known(store, *pair) for pair in zip(operands, statistics, strict=True)] if statistics else None
            encode = partial(_nonlinear, store, strategy, operands, recipe, lookups, progress)
            counted = total_weights(operands)
            coefficients = Average().coefficients(weights, list)  # of what is held whole
        operands = [
            operand._replace(coefficient=coefficient)
            for operand, coefficient in zip(operands, coefficients, strict=True)
        ]
    return derive(
        store,
        name,
        with_base_share(store, operands),
        parents=tuple(dict.fromkeys(operand.commit for operand in operands)),
        tip=tip or next((operand.commit for operand in operands if operand.name == name), None),
        edge="merged",
        message=message,
        recipe=recipe.to_record(),
        choose=recipe.choose,
        encode=encode,
        weights=counted,
    )


def _gram(store: Store, operands: Sequence[Operand]) -> list[list[float]]:
    from erestore.analysis.similarity.inner_products import variant_products
    from erestore.variant.variant import Variant

    variants = [Variant(store.objects, operand.manifest, lossy=True) for operand in operands]
    products: list[list[float]] = variant_products(variants).tolist()
    return products


def _check_statistics(strategy: MergeStrategy, variants: int, count: int) -> None:
    if strategy.needs and count != variants:
        what = {"fisher": "squared gradients", "moments": "second moments of the inputs of its linear layers"}[
            strategy.needs
        ]
        raise UsageError(
            f"{strategy.name} needs the {what} of every variant.",
            hint="Give --statistics FILE once for each, in their order.",
        )
    if count and not strategy.needs:
        raise UsageError(f"{strategy.name} needs no statistics.", hint="Leave --statistics out.")


def _known(store: Store, operand: Operand, checkpoint: Checkpoint) -> Statistics:
    """Return what looks up a variant's statistics by key."""
    layout = Layout.from_record(store.objects.get_record("layout", operand.manifest.layout))
    names = {tensor.key: variant_name for variant_name, tensor in layout.tensors.items()}

    from erestore.arrays import as_array

    def known(key: str, shape: tuple[int, int]) -> Array:
        name = names.get(key, key)
        if name not in checkpoint.tensors:
            raise UsageError(
                f"{checkpoint.path} has no statistics for '{name}'.", hint="They go by the variant's names."
            )
        value = as_array(checkpoint.read(name))
        return value.reshape(shape) if value.size == shape[0] * shape[1] else value

    return known


def _nonlinear(
    store: Store,
    strategy: MergeStrategy,
    operands: Sequence[Operand],
    recipe: Recipe,
    statistics: list[Statistics] | None,
    progress: Progress,
    manifest: Manifest,
    layout: Layout,
) -> StoredVariant:
    from erestore.encoding.merged_delta import NonlinearMerge
    from erestore.encoding.quality import Quality
    from erestore.ingest.computed_writer import write_computed
    from erestore.variant.variant import Variant

    variants = [Variant(store.objects, operand.manifest, lossy=True) for operand in operands]
    weights = [_rational(weight) for _, _, weight in recipe.operands]
    result = Variant(store.objects, manifest, layout=layout)
    labels = [operand.commit for operand in operands]
    differences = NonlinearMerge(strategy, variants, labels, weights, result, statistics)
    quality = Quality(max_error=MERGE_ERROR if recipe.max_error is None else float(recipe.max_error))
    return write_computed(store.objects, result, quality, differences=differences, progress=progress)


def _operands(store: Store, weighted: Sequence[tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, require_commit(store, name, "A merge"), weight) for name, weight in weighted)


def _opened(store: Store, recipe: Recipe) -> list[Operand]:
    """Return the operands, with their weights as coefficients."""
    return [open_operand(store, _rational(weight), name, oid) for name, oid, weight in recipe.operands]


def _rational(weight: Fraction | float | str) -> Fraction:
    if (fraction := rational(weight)) is None:
        raise UsageError(f"'{weight}' is not a weight.", hint="Write it as 0.25 or 1/4.")
    return fraction


def _listed(revisions: Sequence[str]) -> str:
    return (
        ", ".join(revisions) if len(revisions) <= 4 else f"{', '.join(revisions[:3])} and {len(revisions) - 3} others"
    )
