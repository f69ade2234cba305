"""``blame``: which ancestors changed one tensor, and how much of its difference from the base is theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from erestore.analysis.similarity.inner_products import base_rows
from erestore.analysis.similarity.overlap import changes, weighted_shares
from erestore.checkpoint.dtypes import is_floating
from erestore.commit_graph import by_time
from erestore.errors import NotFoundError, UsageError
from erestore.history.revision import Revision, open_revision
from erestore.residual.products import gram
from erestore.store import Store
from erestore.variant.variant import Variant


@dataclass(frozen=True)
class BlamedCommit:
    """What one residual, with its coefficient, contributes to the tensor.

    Attributes
    ----------
    commit : str or None
        That introduced it, None if that commit is gone.
    refs : tuple of str
        Names that point to it.
    message : str
        Its first line.
    edge : str
    residual : str
    coefficient : float
    energy : float
        Own squared norm, ``||c R||^2``.
    cross : float
        Sum of the inner products with all other terms; negative where others take back what this one did.
    share : float or None
        ``(energy + cross)`` over the squared norm of the whole difference. All shares sum to 1. None where it is zero.
    """

    commit: str | None
    refs: tuple[str, ...]
    message: str
    edge: str
    residual: str
    coefficient: float
    energy: float
    cross: float
    share: float | None


@dataclass(frozen=True)
class BlameResult:
    """What was found; the fields are those of JSON.

    Attributes
    ----------
    revision, tensor, key : str
        The tensor by its own name and by the base's.
    base : str
    norm : float
        Of the tensor's difference from the base, linear value.
    energy : float
        Its square: the sum of all `energy` and `cross` of `commits`.
    commits : tuple of BlamedCommit
        Largest share first.
    """

    revision: str
    tensor: str
    key: str
    base: str
    norm: float
    energy: float
    commits: tuple[BlamedCommit, ...]


def blame(store: Store, revision: str, tensor: str) -> BlameResult:
    """Tell which commits changed one tensor of a variant.

    Parameters
    ----------
    store : Store
    revision : str
        Or an expression.
    tensor : str
        By the variant's own name.

    Raises
    ------
    NotFoundError
        If the variant has no such tensor.
    UsageError
        If it has the tensor whole, so that there is no difference from the base to share out.
    """
    opened = open_revision(store, revision)
    variant = opened.variant(store, lossy=True)
    key = _key(variant, revision, tensor)
    oids = [residual.oid for _, residual in variant.residuals if key in residual.tensors]
    terms = changes(variant, key)
    weights = [coefficient for coefficient, _ in terms]
    energies, crosses, total = weighted_shares(weights, gram([matrix for _, matrix in terms], base_rows(variant, key)))
    total = max(0.0, total)
    introduced = _introduced(store, opened, set(oids))
    refs: dict[str, list[str]] = {}
    for name, entry in sorted(store.refs.all().items()):
        refs.setdefault(str(entry.oid), []).append(name)
    commits = []
    for oid, coefficient, energy, cross in zip(oids, weights, energies.tolist(), crosses.tolist(), strict=True):
        commit = introduced.get(oid)
        record = store.commit_record(commit) if commit else None
        commits.append(
            BlamedCommit(
                commit=commit,
                refs=tuple(refs.get(commit or "", ())),
                message=record.message.partition("\n")[0] if record else "",
                edge=record.edge if record else "",
                residual=oid,
                coefficient=coefficient,
                energy=energy,
                cross=cross,
                share=(energy + cross) / total if total else None,
            )
        )
    commits.sort(key=lambda blamed: (-(blamed.share or 0.0), blamed.residual))
    base = store.base_name(variant.manifest.base)
    return BlameResult(revision, tensor, key, base, math.sqrt(total), total, tuple(commits))


def _key(variant: Variant, revision: str, tensor: str) -> str:
    layout_tensor = variant.layout.tensors.get(tensor)
    if layout_tensor is None:
        raise NotFoundError(
            f"'{revision}' has no tensor '{tensor}'.", hint=f"`erestore show {revision}` lists its largest ones."
        )
    if layout_tensor.key in variant.manifest.dense or layout_tensor.key not in variant.base:
        raise UsageError(
            f"'{revision}' stores '{tensor}' in full, so there is no difference from the base to attribute to commits.",
            hint="Name a tensor that the base has as well.",
        )
    if not is_floating(layout_tensor.dtype):
        raise UsageError(f"'{tensor}' holds integers, which are stored unchanged.", hint="Name a tensor of weights.")
    return layout_tensor.key


def _introduced(store: Store, opened: Revision, residuals: set[str]) -> dict[str, str]:
    """Return the oldest commit, among those that the revision goes back to, that introduced each residual."""
    tips = [opened.oid] if opened.oid is not None else list(opened.commit.parents)
    return {
        residual: oid
        for oid, commit in by_time(tips, store.commit_record)
        for residual in commit.own
        if residual in residuals
    }
