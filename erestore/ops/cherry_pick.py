"""``cherry-pick`` and ``revert``: what one commit changed, added to a branch or taken from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import TYPE_CHECKING

from erestore.algebra.operands import Operand, require_one_base
from erestore.errors import ConflictError, UsageError
from erestore.history.derive import Derived, derive
from erestore.history.revision import open_operand, require_commit
from erestore.merge.configuration import rational
from erestore.records import Commit, Layout, Manifest, Term, normal_terms
from erestore.storage.leases import Lease
from erestore.store import Store

if TYPE_CHECKING:
    from erestore.objects.residual_subset import Components
    from erestore.storage.segments import PutResult

    _Part = tuple[str | None, Components | None]
    """Pattern of names, and range of components."""


def cherry_pick(
    store: Store,
    revision: str,
    *,
    onto: str,
    name: str | None = None,
    scale: Fraction | float | str = 1,
    tensors: str | None = None,
    components: str | None = None,
    mainline: int | None = None,
    choose: str | None = None,
    message: str = "",
) -> Derived:
    """Add what a commit changed since its parent to another variant.

    Parameters
    ----------
    store : Store
    revision : str
        The commit.
    onto : str
        Revision that it is added to.
    name : str, optional
        Branch of the result; by default `onto`, which then has to be one.
    scale : Fraction, float or str
        Coefficient.
    tensors : str, optional
        Of tensors whose names match this pattern alone, such as ``*attention*``.
    components : str, optional
        Of factors alone, and of these the components in this range, such as ``1-4``; the first is the strongest.
    mainline : int, optional
        Which parent of a merge its change is counted from, from 1.
    choose : str, optional
        See :func:`erestore.algebra.combine.combine`.
    message : str

    Raises
    ------
    CombinationError
        If the two cannot be combined as they are.
    UsageError
        If the commit is a base, which changes nothing, or a merge without `mainline`.
    """
    coefficient = _coefficient(scale)
    return _apply(
        store,
        require_commit(store, revision, "A cherry-pick"),
        onto,
        name,
        coefficient,
        edge="picked",
        part=None if tensors is None and components is None else (tensors, _range(components)),
        mainline=mainline,
        choose=choose,
        message=message or f"cherry-pick of {revision}",
    )


def revert(
    store: Store,
    revision: str,
    *,
    on: str | None = None,
    name: str | None = None,
    mainline: int | None = None,
    choose: str | None = None,
    message: str = "",
) -> Derived:
    """Take what a commit changed since its parent from a variant; see :func:`cherry_pick`.

    Parameters
    ----------
    store : Store
    revision : str
        The commit.
    on : str, optional
        Revision that it is taken from; by default the branch that `revision` starts from, such as ``a`` in ``a~2``.
    name : str, optional
        Branch of the result; by default `on`.
    mainline, choose, message
        As of :func:`cherry_pick`.
    """
    oid = require_commit(store, revision, "A revert")
    if on is None:
        on = revision.partition("~")[0].partition("@")[0]
        if not store.has_ref(on):
            raise UsageError(f"Specify the branch to revert '{revision}' on.", hint="Add --on BRANCH.")
    return _apply(
        store,
        oid,
        on,
        name,
        Fraction(-1),
        edge="reverted",
        mainline=mainline,
        choose=choose,
        message=message or f"revert of {revision}",
    )


def _coefficient(scale: Fraction | float | str) -> Fraction:
    if (coefficient := rational(scale)) is None:
        raise UsageError(f"'{scale}' is not a number to scale by.", hint="Write it as 0.5 or 1/2.")
    if not coefficient:
        raise UsageError("A scale of 0 adds nothing.", hint="Give another --scale.")
    return coefficient


def _apply(
    store: Store,
    oid: str,
    onto: str,
    name: str | None,
    coefficient: Fraction,
    *,
    edge: str,
    part: _Part | None = None,
    mainline: int | None,
    choose: str | None,
    message: str,
) -> Derived:
    with Lease(store.storage, "writer", store.begin().writer):  # a part is written before there is a commit of it
        tip = require_commit(store, onto, "The target")
        if name is None and not store.has_ref(onto):
            raise UsageError(f"'{onto}' is not a branch, so the result needs a name.", hint="Add --name REF.")
        name = name or onto
        commit = store.commit_record(oid)
        parent = _parent(commit, oid, mainline)
        weighted = [
            (Fraction(1), onto, tip),
            (coefficient, oid[:12], oid),
            (-coefficient, f"{oid[:12]}'s parent", parent),
        ]
        opened = [open_operand(store, *term) for term in weighted]
        require_one_base(opened)
        if edge == "reverted":
            _require_had(store, opened, parent)
        operands = [operand for operand in opened if store.commit_record(operand.commit).edge != "imported"]
        recipe = {"commit": oid, "parent": parent, "coefficient": str(coefficient)}
        residuals: list[PutResult] = []
        if part is not None:
            target = [operand for operand in operands if operand.commit == tip][:1]
            changed = [operand for operand in operands[len(target) :] if operand.commit in (oid, parent)]
            operands = [*target, *_parts(store, changed, coefficient, part, residuals)]
            recipe |= {"tensors": part[0] or "*", "components": "-".join(map(str, part[1])) if part[1] else "all"}
        if not operands:
            raise UsageError(f"'{onto}' and the commit are bases: there is nothing to combine.")
        return derive(
            store,
            name,
            operands,
            parents=tuple(dict.fromkeys((tip, oid))),
            edge=edge,
            message=message,
            recipe=recipe,
            choose=choose,
            residuals=residuals,
            tip=tip if name == onto else None,
        )


def _require_had(store: Store, opened: Sequence[Operand], parent: str) -> None:
    """Make sure that a target has a commit, so that what it changed can be taken back.

    Of every residual that the commit added, or took more of, it has at least as much; a commit that added none, such as one of
    new heads alone, is one of its ancestors.
    """
    target, changed, before = opened
    has, then, former = (
        {term.residual: Fraction(term.coefficient) for term in operand.manifest.terms} for operand in opened
    )
    added = {
        oid: coefficient - former.get(oid, Fraction(0))
        for oid, coefficient in then.items()
        if abs(coefficient) > abs(former.get(oid, Fraction(0)))
    }
    complete = all(has.get(oid, Fraction(0)) * change >= change * change for oid, change in added.items())
    if not complete or not (added or store.is_ancestor(changed.commit, target.commit)):
        is_base = store.commit_record(parent).edge == "imported"
        expression = f"{target.name} - {changed.name}" + ("" if is_base else f" + {before.commit[:12]}")
        raise ConflictError(
            f"'{target.name}' does not contain all of {changed.name}: it never did, or it lost it, or was re-encoded.",
            hint=f'`erestore merge "{expression}" --name NAME` subtracts it anyway.',
        )


def _parts(
    store: Store, changed: Sequence[Operand], coefficient: Fraction, part: _Part, residuals: list[PutResult]
) -> Iterator[Operand]:
    """Yield what stands for the change of a commit, of which only a part is wanted."""
    from erestore.objects.residual import Residual
    from erestore.objects.residual_subset import select

    pattern, components = part
    names: dict[str, set[str]] = {}
    for operand in changed:
        layout = Layout.from_record(store.objects.get_record("layout", operand.manifest.layout))
        for name, tensor in layout.tensors.items():
            names.setdefault(tensor.key, {tensor.key}).add(name)

    def wanted(key: str) -> bool:
        return pattern is None or any(fnmatchcase(name, pattern) for name in names.get(key, {key}))

    terms: list[Term] = []
    for term in normal_terms(
        tuple(
            Term(term.residual, operand.coefficient / coefficient * Fraction(term.coefficient))
            for operand in changed
            for term in operand.manifest.terms
        )
    ):
        stored = select(store.objects, Residual.open(store.objects, term.residual), wanted, components)
        if stored is not None:
            residuals.append(stored)
            terms.append(Term(stored.oid, term.coefficient))
    count = 0
    for index, operand in enumerate(changed):
        tensors = [
            {key: parts for key, parts in entries.items() if components is None and wanted(key)}
            for entries in (operand.manifest.dense, operand.manifest.rows)
        ]
        count += len(tensors[0]) + len(tensors[1])
        manifest = Manifest(
            operand.manifest.base,
            normal_terms(tuple(terms)) if index == 0 else (),
            operand.manifest.layout,
            dense=tensors[0],
            rows=tensors[1],
        )
        yield operand._replace(commit=f"{operand.commit} in part", manifest=manifest)
    if not terms and not count:
        raise UsageError(
            f"The commit changed nothing of '{pattern or '*'}'"
            + (f" in components {components.first}-{components.last}." if components else "."),
            hint="`erestore show COMMIT --json` lists what it changed.",
        )


def _range(text: str | None) -> Components | None:
    if text is None:
        return None
    from erestore.objects.residual_subset import Components

    first, separator, last = text.partition("-")
    if first.isdecimal() and (last.isdecimal() or not separator) and 1 <= int(first) <= int(last or first):
        return Components(int(first), int(last or first))
    raise UsageError(f"'{text}' is not a range of components.", hint="Write it as --components 1-4.")


def _parent(commit: Commit, oid: str, mainline: int | None) -> str:
    """Return the parent that a commit's change is counted from."""
    if not commit.parents:
        raise UsageError(f"{oid[:12]} is a base, which changes nothing.", hint="Name a variant.")
    if mainline is None:
        if commit.edge == "merged" and len(commit.parents) > 1:
            raise UsageError(
                f"{oid[:12]} is a merge of {len(commit.parents)}: its change depends on which of them it is counted from.",
                hint="Add --mainline 1 for the first, as `erestore show` lists them.",
            )
        mainline = 1
    if not 1 <= mainline <= len(commit.parents):
        raise UsageError(f"{oid[:12]} has {len(commit.parents)} parents, and no parent {mainline}.")
    return commit.parents[mainline - 1]
