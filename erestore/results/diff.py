"""What a spectral diff says: plain data, whose fields are those of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erestore.display import Displayed
from erestore.results.diff_details import Details


@dataclass(frozen=True)
class Compared:
    """One of the two things compared.

    Attributes
    ----------
    name : str
        As it was asked for.
    commit, base, path : str or None
        Oid and name of the base of a variant; path of a checkpoint that is in no store.
    exact : bool
        Whether its values are the original's, bit for bit.
    relative_error : float or None
        What its commit lost, as a share of its own squared change; None where that is not known.
    dropped : int
        How many tensors changed in its original of which its commit kept nothing.
    """

    name: str
    commit: str | None
    base: str | None
    path: str | None
    exact: bool
    relative_error: float | None
    dropped: int = 0


@dataclass(frozen=True)
class TensorDiff:
    """How one tensor differs. Spectral fields are None (`energy` empty) for vectors, and where nothing was computed.

    Attributes
    ----------
    name : str
        The variant's own; the second side's, if it has the tensor.
    key : str
        The base's name for it.
    shape : tuple of int
    shape_before : tuple of int or None
        Where it is not `shape`.
    dtype : str
    dtype_before : str or None
        Where it is not `dtype`.
    status, computed_from : str
        See :class:`erestore.analysis.diff.compare.Change`.
    share : float or None
        Of the squared change of all tensors.
    norm, norm_before, relative_norm : float or None
        Norm of the difference, norm of the first side's value, and their ratio (infinite where a zero tensor changed).
    effective_rank : float or None
        Of the difference: exp of the entropy of its singular values scaled to sum to one (ERE §3.1).
    effective_rank_ratio : float or None
        Over that of the base's tensor.
    full_rank : int
        The smaller side of the matrix.
    energy : Mapping[int, float]
        Share of the squared norm in the best approximation of rank 1, 2, 4, ... up to full rank.
    energy_in_tenth : float or None
        The same at a tenth of full rank.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    shape_before: tuple[int, ...] | None
    dtype: str
    dtype_before: str | None
    status: str
    computed_from: str
    share: float | None
    norm: float | None
    norm_before: float | None
    relative_norm: float | None
    effective_rank: float | None
    effective_rank_ratio: float | None
    full_rank: int
    energy: Mapping[int, float]
    energy_in_tenth: float | None


@dataclass(frozen=True)
class Share:
    """One tensor's share of the whole squared change."""

    name: str
    share: float


@dataclass(frozen=True)
class FileChange:
    """A side file that differs.

    Attributes
    ----------
    name : str
    status : str
        ``added``, ``removed`` or ``changed``.
    keys : Mapping[str, (JSON, JSON)] or None
        Of a JSON object that changed: the keys whose values are not equal, with both, None for a missing one. Empty where it
        is only written differently.
    """

    name: str
    status: str
    keys: Mapping[str, tuple[Any, Any]] | None = None


@dataclass(frozen=True)
class LayoutChange:
    """Something about the files that differs: what (``format``, ``files``, ``tied names``), before and after."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Summary:
    """The whole at a glance.

    Attributes
    ----------
    identical : bool
        Whether nothing differs: no tensor, no layout, no side file.
    same_base : bool
        Whether both are variants of one base; if not, whole values were compared.
    pattern : str or None
        What names had to match to be compared.
    tensors : int
        Compared, those that only one side has included.
    counts : Mapping[str, int]
        Tensors by status.
    norm, relative_norm : float
        Norm of the whole difference; and over that of the first side's values of the same tensors (those that changed).
    top, top_share
        The five tensors with the most of the squared change, and how much they have together.
    outstanding : tuple of Share
        Of those, the ones that stand out: what follows is about the rest.
    effective_rank_ratio : float or None
        Median of the tensors' ratios, weighted with their squared change.
    rank_share_for_half, rank_share_for_ninety : float or None
        Smallest share of all ranks (of all matrices that changed) that holds 50 % and 90 % of their squared change.
    layout : tuple of LayoutChange
    side_files : tuple of FileChange
    """

    identical: bool
    same_base: bool
    pattern: str | None
    tensors: int
    counts: Mapping[str, int]
    norm: float
    relative_norm: float
    top: tuple[Share, ...]
    top_share: float
    outstanding: tuple[Share, ...]
    effective_rank_ratio: float | None
    rank_share_for_half: float | None
    rank_share_for_ninety: float | None
    layout: tuple[LayoutChange, ...]
    side_files: tuple[FileChange, ...]


@dataclass(frozen=True)
class DiffResult(Displayed):
    """How `b` differs from `a`; `details` where they were asked for."""

    a: Compared
    b: Compared
    tensors: tuple[TensorDiff, ...]
    summary: Summary
    details: Details | None = None
