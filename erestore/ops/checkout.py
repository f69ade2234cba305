"""``checkout``: a variant as a checkpoint that its library opens as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from erestore.checkpoint.dtypes import tensor_bytes
from erestore.checkpoint.streams import Place
from erestore.checkpoint.writing import write_checkpoint
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.model.sources import name_of
from erestore.model.tensors import raw_bytes
from erestore.model.variant import Variant
from erestore.progress import Progress, silent
from erestore.records import Layout
from erestore.store import Store


@dataclass(frozen=True)
class CheckoutResult:
    """What ``checkout`` did; the fields are those of its JSON.

    Attributes
    ----------
    commit : str
    path : str
        What was written.
    tensors : int
    bytes : int
        Of weights.
    relative_error : float or None
        Bound on what the commit lost, None where it is not recorded.
    exact : bool
    """

    commit: str
    path: str
    tensors: int
    bytes: int
    relative_error: float | None
    exact: bool


def checkout(
    store: Store,
    revision: str,
    directory: str | Path | None = None,
    *,
    force: bool = False,
    format: str | None = None,  # noqa: A002 - the name of the option
    progress: Progress = silent,
) -> CheckoutResult:
    """Write the checkpoint that a revision stands for.

    Parameters
    ----------
    store : Store
    revision : str
    directory : str or Path, optional
        What to write; by default a folder (or file) in the current directory, named for the revision.
    force : bool
        Replace what is there.
    format : str, optional
        ``safetensors`` or ``torch``; by default as it was committed.
    progress : Progress

    Returns
    -------
    CheckoutResult

    Raises
    ------
    TargetExistsError
        If there is something already and `force` is not set.
    CorruptionError
        If stored bytes are damaged or do not decode to what the commit recorded; nothing is left at the target.
    """
    oid = store.resolve(revision)
    commit = store.commit_record(oid)
    variant = Variant.open(store.objects, commit.manifest)
    layout = variant.layout
    target = _target(layout, revision, directory)
    structure = json.loads(store.objects.get_blob(layout.structure)) if layout.structure else None
    done, total = 0, len(layout.tensors)

    def read(name: str) -> Iterator[memoryview]:
        yield from map(raw_bytes, variant.blocks(name))

    with tensor_threads() as executor:

        def work(write: Callable[[Place], None], places: Iterable[Place]) -> Iterator[None]:
            nonlocal done
            for _ in bounded_map(executor, write, places, in_flight=2 * worker_count()):
                done += 1
                progress("writing", done, total)
                yield

        write_checkpoint(
            target,
            layout,
            read,
            lambda name: store.objects.iter_blob(layout.side_files[name]),
            format=format,
            force=force,
            structure=structure,
            work=work,
        )
    error = commit.quality.get("relative_error")
    return CheckoutResult(
        commit=oid,
        path=str(target),
        tensors=len(layout.tensors),
        bytes=sum(tensor_bytes(tensor.dtype, tensor.shape) for tensor in layout.tensors.values()),
        relative_error=float(error) if error is not None else None,
        exact=commit.quality.get("exact") == "yes",
    )


def _target(layout: Layout, revision: str, directory: str | Path | None) -> Path:
    if layout.is_directory:
        return Path(directory) if directory is not None else Path(name_of(revision))
    file = Path(layout.files[0].name)
    if directory is None:
        return Path(
            name_of(revision) + "".join(file.suffixes[-2:] if file.name.endswith(".pth.tar") else file.suffixes[-1:])
        )
    return Path(directory) / file.name if Path(directory).is_dir() else Path(directory)
