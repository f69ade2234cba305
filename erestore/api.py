"""The public Python interface: a store whose verbs are methods.

Every method does what the command of the same name does, takes the same options, and returns a frozen dataclass whose fields
are those of the command's JSON. Heavy libraries load when a verb that needs them is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from erestore import store as _store
from erestore.progress import Progress, silent

if TYPE_CHECKING:
    import networkx
    import torch

    from erestore.model.quality import Quality
    from erestore.model.variant import Variant
    from erestore.ops.branch import Branch, BranchChange
    from erestore.ops.cat import CatResult
    from erestore.ops.checkout import CheckoutResult
    from erestore.ops.commit import CommitResult
    from erestore.ops.import_base import ImportResult
    from erestore.ops.log import LogEntry
    from erestore.ops.show import ShowResult
    from erestore.ops.status import StatusResult


class StateDict(Mapping[str, "torch.Tensor"]):
    """The tensors of a variant by their own names; each is read when it is asked for, and not kept.

    Parameters
    ----------
    variant : Variant
    """

    def __init__(self, variant: Variant) -> None:
        self._variant = variant

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._variant.layout.tensors:
            raise KeyError(name)
        return self._variant.tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._variant.layout.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._variant.layout.tensors)

    def __len__(self) -> int:
        return len(self._variant.layout.tensors)


class Store(_store.Store):
    """A store at a URL. Make one with :meth:`init` or :meth:`open`; usable as a context manager.

    Examples
    --------
    >>> store = Store.init("models")                                # doctest: +SKIP
    >>> store.commit("ft/", base="roberta-large").relative_error    # doctest: +SKIP
    0.0098
    >>> weights = store.state_dict("ft")                            # doctest: +SKIP
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections and open files; the store object is of no use afterwards."""
        close = getattr(self.storage, "close", None)
        if close is not None:
            close()

    def import_base(
        self, path: str | Path, *, name: str, message: str = "", progress: Progress = silent
    ) -> ImportResult:
        """Store the checkpoint at `path` as a base; see :func:`erestore.ops.import_base.import_base`."""
        from erestore.ops.import_base import import_base

        return import_base(self, path, name=name, message=message, progress=progress)

    def commit(
        self,
        path: str | Path,
        *,
        base: str | None = None,
        parent: str | None = None,
        name: str | None = None,
        message: str = "",
        quality: Quality | None = None,
        metrics: Mapping[str, str] | None = None,
        progress: Progress = silent,
    ) -> CommitResult:
        """Store the checkpoint at `path` as a variant; see :func:`erestore.ops.commit.commit`."""
        from erestore.ops.commit import commit

        return commit(
            self,
            path,
            base=base,
            parent=parent,
            name=name,
            message=message,
            quality=quality,
            metrics=metrics,
            progress=progress,
        )

    def checkout(
        self,
        revision: str,
        directory: str | Path | None = None,
        *,
        force: bool = False,
        format: str | None = None,  # noqa: A002 - the name of the option
        progress: Progress = silent,
    ) -> CheckoutResult:
        """Write the checkpoint that a revision stands for; see :func:`erestore.ops.checkout.checkout`."""
        from erestore.ops.checkout import checkout

        return checkout(self, revision, directory, force=force, format=format, progress=progress)

    def cat(self, revision: str, tensor: str) -> CatResult:
        """Return one tensor of a variant, by the variant's own name; see :func:`erestore.ops.cat.cat`."""
        from erestore.ops.cat import cat

        return cat(self, revision, tensor)

    def state_dict(self, revision: str) -> StateDict:
        """Return a variant's tensors as a mapping that reads each when it is asked for.

        Parameters
        ----------
        revision : str

        Returns
        -------
        StateDict
            Own name to tensor, in its stored dtype and shape, on the CPU. ``dict()`` of it reads all of them;
            ``model.load_state_dict`` accepts that.

        Raises
        ------
        UnknownRevisionError
            If `revision` names nothing.
        """
        from erestore.model.variant import Variant

        return StateDict(Variant.open(self.objects, self.commit_record(self.resolve(revision)).manifest))

    def status(self) -> StatusResult:
        """Count what the store holds; see :func:`erestore.ops.status.status`."""
        from erestore.ops.status import status

        return status(self)

    def log(
        self, revisions: Sequence[str] = (), *, limit: int | None = None, topological: bool = False
    ) -> tuple[LogEntry, ...]:
        """List commits, newest first; see :func:`erestore.ops.log.log`."""
        from erestore.ops.log import log

        return log(self, revisions, limit=limit, topological=topological)

    def show(self, revision: str) -> ShowResult:
        """Describe one commit in full; see :func:`erestore.ops.show.show`."""
        from erestore.ops.show import show

        return show(self, revision)

    def branches(self) -> tuple[Branch, ...]:
        """List the branches, sorted by name."""
        from erestore.ops.branch import branches

        return branches(self)

    def branch(self, name: str, revision: str, *, force: bool = False) -> BranchChange:
        """Make a branch, or with `force` move it; see :func:`erestore.ops.branch.branch`."""
        from erestore.ops.branch import branch

        return branch(self, name, revision, force=force)

    def delete_branches(self, names: Sequence[str]) -> tuple[BranchChange, ...]:
        """Delete branches; see :func:`erestore.ops.branch.delete_branches`."""
        from erestore.ops.branch import delete_branches

        return delete_branches(self, names)

    def rename_branch(self, old: str, new: str) -> BranchChange:
        """Give a branch another name; see :func:`erestore.ops.branch.rename_branch`."""
        from erestore.ops.branch import rename_branch

        return rename_branch(self, old, new)

    def graph(self) -> networkx.DiGraph:
        """Return the lineage of everything that branches and tags lead to.

        Returns
        -------
        networkx.DiGraph
            A node per commit oid, with the fields of :class:`erestore.ops.log.LogEntry`; an edge from parent to child, with
            ``edge`` (``adapted``, ``merged``, ...) and ``position`` (which of its parents the parent is, from 0).
        """
        from erestore.graph import lineage

        return lineage((entry.commit, entry.parents, entry.edge, vars(entry)) for entry in self.log())
