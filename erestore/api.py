"""The public Python interface: a store whose verbs are methods.

Every method does what the command of the same name does, takes the same options, and returns frozen dataclasses whose
fields are those of the command's JSON. A verb is the function of that name in :mod:`erestore.ops`, with its signature and its
docstring; its module, and the heavy libraries that it needs, load when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from erestore import display as _display
from erestore import ops
from erestore import store as _store
from erestore.progress import Progress, silent

if TYPE_CHECKING:
    import networkx as nx

    from erestore.results.diff import DiffResult
    from erestore.results.probe import ProbeResult
    from erestore.settings import ConfigEntry
    from erestore.variant.state_dict import StateDict
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Verb(Generic[_P, _R]):
    """A function of :mod:`erestore.ops` as a method: bound to its module when it is first used.

    Parameters
    ----------
    load : callable
        Returns the function, whose first parameter is the store.
    """

    def __init__(self, load: Callable[[], Callable[Concatenate[Any, _P], _R]]) -> None:
        self._load = load

    @overload
    def __get__(self, store: None, owner: type) -> Callable[Concatenate[Any, _P], _R]: ...

    @overload
    def __get__(self, store: object, owner: type) -> Callable[_P, _R]: ...

    def __get__(self, store: object, owner: type) -> Any:
        function = self._load()
        return function if store is None else MethodType(function, store)


def _diff_html(result: DiffResult) -> str:
    from erestore.report.notebook import diff_html

    return diff_html(result)


def _probe_html(result: ProbeResult) -> str:
    from erestore.report.notebook import probe_html

    return probe_html(result)


_display.renderers |= {"DiffResult": _diff_html, "ProbeResult": _probe_html}


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

    def _repr_html_(self) -> str:
        """Show the branches, in a notebook."""
        from erestore.report.notebook import store_html

        return store_html(self.url, self.branches())

    def close(self) -> None:
        """Do nothing: no file or connection is kept open between two calls. It goes with the ``with`` statement."""

    def settings(self) -> tuple[ConfigEntry, ...]:
        """List all settings with where they come from; see :func:`erestore.settings.entries`."""
        from erestore.settings import entries

        return entries(self.config(), self.environment)

    set_setting = Verb(lambda: ops.config.set_config)
    import_base = Verb(lambda: ops.import_base.import_base)
    calibrate = Verb(lambda: ops.calibrate.calibrate)
    commit = Verb(lambda: ops.commit.commit)
    checkout = Verb(lambda: ops.checkout.checkout)
    verify = Verb(lambda: ops.verify.verify)
    cat = Verb(lambda: ops.cat.cat)
    merge = Verb(lambda: ops.merge.merge)
    merge_recipe = Verb(lambda: ops.merge.merge_recipe)
    unmerge = Verb(lambda: ops.merge.unmerge)
    soup = Verb(lambda: ops.soup.soup)
    cherry_pick = Verb(lambda: ops.cherry_pick.cherry_pick)
    revert = Verb(lambda: ops.cherry_pick.revert)
    flatten = Verb(lambda: ops.flatten.flatten)
    repack = Verb(lambda: ops.repack.repack)
    rebase = Verb(lambda: ops.rebase.rebase)
    bisect = Verb(lambda: ops.bisect.bisect)
    status = Verb(lambda: ops.status.status)
    log = Verb(lambda: ops.log.log)
    show = Verb(lambda: ops.show.show)
    diff = Verb(lambda: ops.diff.diff)
    probe = Verb(lambda: ops.probe.probe)
    similar = Verb(lambda: ops.similar.similar)
    identify = Verb(lambda: ops.identify.identify)
    blame = Verb(lambda: ops.blame.blame)
    branches = Verb(lambda: ops.branch.branches)
    branch = Verb(lambda: ops.branch.branch)
    delete_branches = Verb(lambda: ops.branch.delete_branches)
    rename_branch = Verb(lambda: ops.branch.rename_branch)
    tags = Verb(lambda: ops.tag.tags)
    tag = Verb(lambda: ops.tag.tag)
    delete_tags = Verb(lambda: ops.tag.delete_tags)
    reflog = Verb(lambda: ops.reflog.reflog)
    undo = Verb(lambda: ops.undo.undo)
    du = Verb(lambda: ops.du.du)
    gc = Verb(lambda: ops.gc.gc)
    drop_exact = Verb(lambda: ops.drop_exact.drop_exact)
    unlock = Verb(lambda: ops.unlock.unlock)
    fsck = Verb(lambda: ops.fsck.fsck)

    def report(
        self,
        a: str,
        b: str | Path | None = None,
        *,
        tensors: str | None = None,
        spectra_directory: Path | None = None,
        progress: Progress = silent,
    ) -> str:
        """Return the page of a diff, one self-contained HTML file; see :func:`erestore.report.pages.diff_page`."""
        from erestore.report.pages import diff_page

        return diff_page(
            self.diff(a, b, tensors=tensors, details=True, spectra_directory=spectra_directory, progress=progress)
        )

    def state_dict(self, revision: str, *, lossy: bool = False) -> StateDict:
        """Return a variant's tensors as a mapping that reads each when it is asked for.

        Parameters
        ----------
        revision : str
        lossy : bool
            Leave the exact remainder out; it is not read.

        Returns
        -------
        StateDict
            Own name to tensor, in its stored dtype and shape, on the CPU. ``dict()`` of it reads all of them;
            ``model.load_state_dict`` accepts that.

        Raises
        ------
        UnknownRevisionError
            If `revision` names nothing.
        UsageError
            If the variant has no lossy part and it is asked for.
        """
        from erestore.history.revision import open_revision
        from erestore.variant.error_bound import require_lossy
        from erestore.variant.state_dict import StateDict

        opened = open_revision(self, revision)
        if lossy:
            require_lossy(opened.commit, revision, hint="Leave lossy=True out.")
        return StateDict(opened.variant(self, lossy=lossy))

    def graph(self) -> nx.DiGraph:
        """Return the lineage of everything that branches and tags lead to.

        Returns
        -------
        networkx.DiGraph
            A node per commit oid, with the fields of :class:`erestore.ops.log.LogEntry`; an edge from parent to child,
            with ``edge`` (``adapted``, ``merged``, ...) and ``position`` (which of its parents the parent is, from 0).
        """
        from erestore.commit_graph import lineage

        return lineage((entry.commit, entry.parents, entry.edge, vars(entry)) for entry in self.log(()))
