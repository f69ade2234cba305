"""A variant to a checkpoint on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from erestore.arrays import raw_bytes
from erestore.checkpoint.streams import FileExtent
from erestore.checkpoint.write import write_checkpoint
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.objects.structure import read_structure
from erestore.progress import Progress, silent
from erestore.variant.variant import Variant


def write_variant(
    variant: Variant,
    target: Path,
    *,
    format: str | None = None,  # noqa: A002 - the name of the option
    force: bool = False,
    marker: bytes | None = None,
    progress: Progress = silent,
) -> None:
    """Write what a variant stands for, several tensors at a time, each in blocks.

    Parameters
    ----------
    variant : Variant
    target : Path
    format, force, marker
        See :func:`erestore.checkpoint.write.write_checkpoint`, for what is raised as well.
    progress : Progress
    """
    variant.open_parts()
    objects, layout = variant.objects, variant.layout
    structure = read_structure(objects, layout)
    done, total = 0, len(layout.tensors)

    def read(name: str) -> Iterator[memoryview]:
        yield from map(raw_bytes, variant.blocks(name))

    with tensor_threads() as executor:

        def work(write: Callable[[FileExtent], None], places: Iterable[FileExtent]) -> Iterator[None]:
            nonlocal done
            with closing(bounded_map(executor, write, places, in_flight=2 * worker_count())) as results:
                for _ in results:
                    done += 1
                    progress("writing", done, total)
                    yield

        write_checkpoint(
            target,
            layout,
            read,
            lambda name: objects.iter_blob(layout.side_files[name]),
            format=format,
            force=force,
            structure=structure,
            work=work,
            marker=marker,
        )
