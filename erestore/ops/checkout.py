"""``checkout``: write a variant as a checkpoint that its library loads directly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from erestore.algebra.expression import is_expression
from erestore.checkpoint.default_name import name_of
from erestore.checkpoint.dtypes import tensor_bytes
from erestore.checkpoint.marker import Marker
from erestore.errors import TargetExistsError, UsageError
from erestore.history.revision import Revision, open_revision
from erestore.history.working_copy import loss_of_replacing
from erestore.progress import Progress, silent
from erestore.records import Layout
from erestore.store import Store
from erestore.variant.error_bound import known_error, require_lossy
from erestore.variant.prefix import Prefix, left_error
from erestore.variant.write import write_variant


@dataclass(frozen=True)
class CheckoutResult:
    """What ``checkout`` did; the fields are those of its JSON.

    Attributes
    ----------
    commit : str or None
        None for an expression that equals no commit.
    path : str
        What was written.
    tensors : int
    bytes : int
        Of weights.
    relative_error : float or None
        Of what was written, None where it was not measured.
    exact : bool
        Whether every bit is the original's.
    error_bound : float or None
        Where `relative_error` was not measured, an upper bound, if one follows from what is recorded.
    lossy : bool
        Whether an exact remainder, or a part of a residual, was left out.
    loses_exact : tuple of str
        Names in an expression whose exact remainders do not apply to it.
    residual_bytes, residual_bytes_read : int
        Stored size of all of the variant's residuals, and of what was read of them.
    left_alone : str or None
        The default target, where it holds what the store cannot restore, so that `path` is another one.
    """

    commit: str | None
    path: str
    tensors: int
    bytes: int
    relative_error: float | None
    exact: bool
    error_bound: float | None = None
    lossy: bool = False
    loses_exact: tuple[str, ...] = ()
    residual_bytes: int = 0
    residual_bytes_read: int = 0
    left_alone: str | None = None


def checkout(
    store: Store,
    revision: str,
    directory: str | Path | None = None,
    *,
    force: bool = False,
    discard_original: bool = False,
    format: str | None = None,  # noqa: A002 - the name of the option
    lossy: bool = False,
    max_rank: int | None = None,
    max_bytes: int | None = None,
    progress: Progress = silent,
) -> CheckoutResult:
    """Write the checkpoint that a revision stands for.

    Parameters
    ----------
    store : Store
    revision : str
    directory : str or Path, optional
        What to write; by default a folder (or file) in the current directory, named for the revision; one more called
        ``-checkout`` where that holds weights that the store cannot restore.
    force : bool
        Replace what is there, unless that loses weights that the store cannot restore bit for bit.
    discard_original : bool
        With `force`: replace these, too.
    format : str, optional
        ``safetensors`` or ``torch``; by default as it was committed.
    lossy : bool
        Leave the exact remainder out; it is not read.
    max_rank, max_bytes : int, optional
        Read the front of the residuals only, one of the two; see :class:`erestore.variant.prefix.Prefix`. Implies `lossy`.
        Recorded digests are of the whole and cannot be checked then.
    progress : Progress

    Returns
    -------
    CheckoutResult

    Raises
    ------
    TargetExistsError
        If there is something already and `force` is not set, or that would be lost for good and `discard_original` is not.
    UsageError
        If the variant has no lossy part and one is asked for.
    CorruptionError
        If stored bytes are damaged or do not decode to what the commit recorded; nothing is left at the target.
    """
    if discard_original and not force:
        raise UsageError("--discard-original goes with --force.", hint="Give both to replace an original for good.")
    opened = open_revision(store, revision)
    commit = opened.commit
    prefix = None if max_rank is None and max_bytes is None else Prefix(max_rank, max_bytes)
    lossy = lossy or prefix is not None
    if lossy:
        require_lossy(commit, revision, hint=f"Check it out whole: `erestore checkout {revision}`.")
    variant = opened.variant(store, lossy=lossy, prefix=prefix)
    layout = variant.layout
    target = _target(layout, revision, directory)
    loss = None if discard_original else _loss(store, target, opened, force=force or directory is None)
    left_alone = None
    if loss is not None and directory is None:
        left_alone, target = target, _beside(target)
        loss = _loss(store, target, opened, force=force)
    if loss is not None:
        raise TargetExistsError(
            f"'{target}' holds {loss}, and is not replaced.",
            hint=f"Choose another place, such as {_beside(target)}; --force --discard-original replaces it for good.",
        )
    reduced = variant.is_prefix or (lossy and variant.manifest.patch is not None)
    if reduced:
        error = left_error(store.objects, commit, opened.manifest, variant.residuals)
    else:
        error = known_error(store.objects, commit, opened.manifest)
    exact = commit.quality.get("exact") == "yes" and not reduced
    marker = Marker(opened.oid, revision, store.id, error.measured, error.bound, reduced, max_rank, max_bytes)
    write_variant(
        variant, target, format=format, force=force, marker=None if exact else marker.to_bytes(), progress=progress
    )
    return CheckoutResult(
        commit=opened.oid,
        path=str(target),
        tensors=len(layout.tensors),
        bytes=sum(tensor_bytes(tensor.dtype, tensor.shape) for tensor in layout.tensors.values()),
        relative_error=error.measured,
        exact=exact,
        error_bound=error.bound,
        lossy=reduced,
        loses_exact=opened.loses_exact,
        residual_bytes=sum(segment.stored_length for _, residual in variant.residuals for segment in residual.segments),
        residual_bytes_read=sum(residual.read_bytes for _, residual in variant.residuals),
        left_alone=str(left_alone) if left_alone else None,
    )


def _loss(store: Store, target: Path, revision: Revision, *, force: bool) -> str | None:
    """Say what would be lost if the target were replaced, where it is to be."""
    if not force or not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return None
    return loss_of_replacing(store, target, revision)


def _beside(target: Path) -> Path:
    """Return the place that is taken instead of one that holds what must not be lost."""
    suffix = target.suffix if target.is_file() else ""
    return target.with_name(f"{target.name.removesuffix(suffix)}-checkout{suffix}")


def _target(layout: Layout, revision: str, directory: str | Path | None) -> Path:
    if layout.is_directory:
        if directory is None and is_expression(revision):
            raise UsageError(
                "An expression has no name to make a directory of.", hint=f"`erestore checkout '{revision}' DIRECTORY`"
            )
        return Path(directory) if directory is not None else Path(name_of(revision))
    file = Path(layout.files[0].name)
    if directory is None:
        return Path(
            name_of(revision) + "".join(file.suffixes[-2:] if file.name.endswith(".pth.tar") else file.suffixes[-1:])
        )
    return Path(directory) / file.name if Path(directory).is_dir() else Path(directory)
