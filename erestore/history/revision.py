"""What a revision stands for: a commit, or a linear combination of commits that is written nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from erestore.algebra.expression import is_expression, parse_expression
from erestore.errors import CombinationError, UnknownRevisionError, UsageError
from erestore.records import Commit, Layout, Manifest
from erestore.store import Store

if TYPE_CHECKING:
    from erestore.algebra.operands import Operand
    from erestore.variant.prefix import Prefix
    from erestore.variant.variant import Variant


@dataclass(frozen=True)
class Revision:
    """A revision that was looked up.

    Attributes
    ----------
    text : str
        As it was given.
    oid : str or None
        Its commit; None for an expression that equals no commit.
    commit : Commit
        For such an expression the one that a merge would make.
    manifest : Manifest
    layout : Layout or None
        Of an expression.
    loses_exact : tuple of str
        Names in an expression whose exact remainders do not apply to it.
    """

    text: str
    oid: str | None
    commit: Commit
    manifest: Manifest
    layout: Layout | None = None
    loses_exact: tuple[str, ...] = ()

    def variant(self, store: Store, *, lossy: bool = False, prefix: Prefix | None = None) -> Variant:
        """Open it for reading; see :class:`erestore.variant.variant.Variant`."""
        from erestore.variant.variant import Variant

        return Variant(store.objects, self.manifest, layout=self.layout, lossy=lossy, prefix=prefix)


def open_revision(store: Store, text: str, choose: str | None = None) -> Revision:
    """Look up a revision or an expression.

    Parameters
    ----------
    store : Store
    text : str
    choose : str, optional
        What to do about conflicts in an expression; see :func:`erestore.algebra.combine.combine`.

    Raises
    ------
    UnknownRevisionError
        If it names nothing.
    UsageError
        If it is not an expression.
    CombinationError
        If what it names cannot be combined.
    """
    if not is_expression(text):
        oid = store.resolve(text)
        return _of_commit(store, text, oid)
    from erestore.algebra.combine import combine

    operands = open_operands(store, parse_expression(text).items())
    try:
        combined = combine(store.objects, operands, choose)
    except CombinationError as error:
        if choose is None and error.hint == CombinationError.CHOOSE:
            error.hint = f'`erestore merge "{text}" --name NAME` decides it, with --ours, --theirs or --drop.'
        raise
    if combined.equals is not None:
        return _of_commit(store, text, combined.equals)
    commit = Commit(
        manifest="",
        parents=tuple(dict.fromkeys(operand.commit for operand in operands)),
        edge="merged",
        author="",
        time=0,
        message=text,
    )
    return Revision(text, None, commit, combined.manifest, combined.layout, combined.loses_exact)


def open_operands(store: Store, weighted: Iterable[tuple[str, Fraction]]) -> list[Operand]:
    """Look up the revisions of an expression; see :func:`with_base_share` for bases in it."""
    return with_base_share(
        store, [open_operand(store, coefficient, name, _resolve(store, name)) for name, coefficient in weighted]
    )


def open_operand(store: Store, coefficient: Fraction, name: str, oid: str) -> Operand:
    """Open a commit as an operand.

    Raises
    ------
    UsageError
        If it keeps nothing but an exact remainder, which cannot be combined.
    """
    from erestore.algebra.operands import Operand
    from erestore.variant.error_bound import require_lossy

    commit = store.commit_record(oid)
    require_lossy(commit, name, hint="Only linear parts are combined: commit it again with --exact instead.")
    return Operand(coefficient, name, oid, store.manifest(commit))


def with_base_share(store: Store, operands: list[Operand]) -> list[Operand]:
    """Give a base that is named beside its variants the coefficient that these leave it; leave it out where they leave none.

    ``base + sum(c_i * (variant_i - base))`` has ``1 - sum(c_i)`` of the base, however often an expression names it:
    ``base + 0.6*a + 0.4*b`` has nothing of it, ``mean(a, base)`` one half. A base that is only subtracted from
    (``a + 0.5*(b - base)``) makes a difference of a variant, and is no model that is mixed in.
    """
    bases: list[Operand] = []
    variants: list[Operand] = []
    for operand in operands:
        is_base = store.commit_record(operand.commit).edge == "imported"
        (bases if is_base else variants).append(operand)
    if not bases or not variants or len({operand.manifest.base for operand in operands}) > 1:
        return operands
    share = 1 - sum((operand.coefficient for operand in variants), Fraction(0))
    if share <= 0 or sum(operand.coefficient for operand in bases) <= 0:
        return variants
    place = next(place for place, operand in enumerate(operands) if operand is bases[0])
    return [*variants[:place], bases[0]._replace(coefficient=share), *variants[place:]]


def require_commit(store: Store, text: str, what: str) -> str:
    """Return the commit that a revision names, where an expression cannot stand.

    Raises
    ------
    UsageError
        If it is an expression.
    """
    if is_expression(text):
        raise UsageError(
            f"{what} needs a commit, and '{text}' is an expression.",
            hint=f'`erestore merge "{text}" --name NAME` makes it a commit.',
        )
    return _resolve(store, text)


def _resolve(store: Store, name: str) -> str:
    """Return the oid of a commit; of a name that two branches with a minus between them make, the error says so."""
    try:
        return store.resolve(name)
    except UnknownRevisionError as error:
        for minus in (place for place, letter in enumerate(name) if letter == "-"):
            left, right = name[:minus], name[minus + 1 :]
            if store.has_ref(left) and store.has_ref(right):
                error.hint = f"A name may hold '-', so a minus stands between spaces: '{left} - {right}'."
        raise


def _of_commit(store: Store, text: str, oid: str) -> Revision:
    commit = store.commit_record(oid)
    return Revision(text, oid, commit, store.manifest(commit))
