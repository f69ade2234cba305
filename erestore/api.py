"""The public Python interface: a store whose verbs are methods.

Every method does what the command of the same name does, takes the same options, and returns frozen dataclasses whose
fields are those of the command's JSON. Heavy libraries load when a verb that needs them is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, Unpack

from erestore import display as _display
from erestore import store as _store
from erestore.progress import Progress, silent
from erestore.store import Operation

if TYPE_CHECKING:
    from fractions import Fraction

    import networkx as nx
    import torch

    from erestore.analysis.inference.features import Features
    from erestore.analysis.inference.input_moments import ModelInputs
    from erestore.analysis.inference.live_model import Examples
    from erestore.analysis.probe.settings import ProbeSettings
    from erestore.encoding.quality import Quality, QualityOptions
    from erestore.history.derive import Derived
    from erestore.ops.bisect import BisectResult
    from erestore.ops.blame import BlameResult
    from erestore.ops.branch import Branch, BranchChange
    from erestore.ops.calibrate import CalibrateResult
    from erestore.ops.cat import CatResult
    from erestore.ops.checkout import CheckoutResult
    from erestore.ops.commit import CommitResult
    from erestore.ops.config import ConfigEntry
    from erestore.ops.drop_exact import DropResult
    from erestore.ops.du import DuResult
    from erestore.ops.flatten import FlattenResult
    from erestore.ops.fsck import FsckResult
    from erestore.ops.gc import GcResult
    from erestore.ops.identify import IdentifyResult
    from erestore.ops.import_base import ImportResult
    from erestore.ops.log import Log
    from erestore.ops.merge import RecipeResult
    from erestore.ops.rebase import RebaseResult
    from erestore.ops.reflog import ReflogEntry
    from erestore.ops.repack import RepackResult
    from erestore.ops.show import ShowResult
    from erestore.ops.similar import SimilarResult
    from erestore.ops.soup import SoupResult
    from erestore.ops.status import StatusResult
    from erestore.ops.tag import Tag, TagChange
    from erestore.ops.undo import UndoResult
    from erestore.ops.unlock import UnlockResult
    from erestore.ops.verify import VerifyResult
    from erestore.results.diff import DiffResult
    from erestore.results.probe import ProbeResult
    from erestore.storage.abc import Storage
    from erestore.variant.variant import Variant


def _diff_html(result: DiffResult) -> str:
    from erestore.report.notebook import diff_html

    return diff_html(result)


def _probe_html(result: ProbeResult) -> str:
    from erestore.report.notebook import probe_html

    return probe_html(result)


_display.renderers |= {"DiffResult": _diff_html, "ProbeResult": _probe_html}


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

    Attributes
    ----------
    environment : Mapping[str, str]
        Variables that override settings; none unless set, so that a program is not steered from outside unawares.
    """

    environment: Mapping[str, str] = MappingProxyType({})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """Show the branches, in a notebook."""
        from erestore.report.notebook import store_html

        return store_html(self.url, self.branches())

    def on(self, storage: Storage) -> Self:
        """Return this store as another storage shows it, with the same :attr:`environment`."""
        other = super().on(storage)
        other.environment = self.environment
        return other

    def close(self) -> None:
        """Do nothing: no file or connection is kept open between two calls. It goes with the ``with`` statement."""

    def begin(self, *, undoes: str | None = None) -> Operation:
        """Start an operation by :attr:`author`, else by the ``user.name`` of the configuration."""
        self.require_writable()
        return Operation.begin(self.author or self.setting("user.name"), undoes=undoes)

    def setting(self, key: str) -> Any:
        """Return one setting's value: from :attr:`environment`, else the store, else the user's file, else the default.

        Raises
        ------
        NotFoundError
            If there is no such key.
        UsageError
            If what is set is not valid.
        """
        from erestore.ops.config import read_setting

        return read_setting(self, key, environment=self.environment)

    def settings(self) -> tuple[ConfigEntry, ...]:
        """List all settings with where they come from; see :func:`erestore.ops.config.config`."""
        from erestore.ops.config import config

        return config(self, environment=self.environment)

    def set_setting(self, key: str, value: str | None, *, user: bool = False) -> ConfigEntry:
        """Set one setting, or with None unset it; see :func:`erestore.ops.config.set_config`."""
        from erestore.ops.config import set_config

        return set_config(self, key, value, user=user)

    def import_base(
        self, path: str | Path, *, name: str | None = None, message: str = "", progress: Progress = silent
    ) -> ImportResult:
        """Store the checkpoint at `path` as a base; see :func:`erestore.ops.import_base.import_base`."""
        from erestore.ops.import_base import import_base

        return import_base(self, path, name=name, message=message, progress=progress)

    def calibrate(
        self,
        base: str,
        inputs: Iterable[str | ModelInputs],
        *,
        model: torch.nn.Module | None = None,
        progress: Progress = silent,
    ) -> CalibrateResult:
        """Measure what goes into a base's layers, for later commits; see :func:`erestore.ops.calibrate.calibrate`."""
        from erestore.ops.calibrate import calibrate

        return calibrate(self, base, inputs, model=model, progress=progress)

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
        new: bool = False,
        dry_run: bool = False,
        progress: Progress = silent,
        **options: Unpack[QualityOptions],
    ) -> CommitResult:
        """Store the checkpoint at `path` as a variant; see :func:`erestore.ops.commit.commit`.

        What the command's options say of the quality is given as `options` (``exact=True``, ``max_error=0.001``), see
        :class:`erestore.encoding.quality.Quality`, or all at once as `quality`. With `dry_run` all is done in a temporary
        directory on top of the store, and nothing reaches the store: the result says what the commit would take.
        """
        from erestore.dry_run import scratch_store
        from erestore.encoding.quality import Quality
        from erestore.errors import UsageError
        from erestore.ops.commit import as_dry_run, commit

        if quality is not None and options:
            raise UsageError(
                f"`quality` and `{next(iter(options))}` both decide the quality.", hint="Give one of them."
            )
        quality = quality or Quality(**({"max_error": self.setting("commit.max_error")} | options))
        with scratch_store(self) if dry_run else nullcontext(self) as target:
            receipt = commit(
                target,
                path,
                base=base,
                parent=parent,
                name=name,
                message=message,
                quality=quality,
                metrics=metrics,
                new=new,
                flatten_rank=self.setting("commit.flatten_rank"),
                progress=progress,
            )
        return as_dry_run(receipt) if dry_run else receipt

    def checkout(
        self,
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
        """Write the checkpoint that a revision stands for; see :func:`erestore.ops.checkout.checkout`."""
        from erestore.ops.checkout import checkout

        return checkout(
            self,
            revision,
            directory,
            force=force,
            discard_original=discard_original,
            format=format,
            lossy=lossy,
            max_rank=max_rank,
            max_bytes=max_bytes,
            progress=progress,
        )

    def verify(self, path: str | Path, revision: str | None = None, *, progress: Progress = silent) -> VerifyResult:
        """Say whether a checkpoint is what a revision stores; see :func:`erestore.ops.verify.verify`."""
        from erestore.ops.verify import verify

        return verify(self, path, revision, progress=progress)

    def cat(self, revision: str, tensor: str, *, lossy: bool = False) -> CatResult:
        """Return one tensor of a variant, by the variant's own name; see :func:`erestore.ops.cat.cat`."""
        from erestore.ops.cat import cat

        return cat(self, revision, tensor, lossy=lossy)

    def merge(
        self,
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
        """Combine variants and record the result; see :func:`erestore.ops.merge.merge`."""
        from erestore.ops.merge import merge

        return merge(
            self,
            revisions,
            name=name,
            strategy=strategy,
            weights=weights,
            options=options,
            max_error=max_error,
            statistics=statistics,
            choose=choose,
            message=message,
            progress=progress,
        )

    def merge_recipe(
        self,
        path: str | Path,
        *,
        name: str,
        max_error: float | None = None,
        choose: str | None = None,
        message: str = "",
        progress: Progress = silent,
    ) -> RecipeResult:
        """Merge as a configuration of mergekit says (``merge --recipe``); see :func:`erestore.ops.merge.merge_recipe`."""
        from erestore.ops.merge import merge_recipe

        return merge_recipe(
            self, path, name=name, max_error=max_error, choose=choose, message=message, progress=progress
        )

    def unmerge(self, name: str, operand: str, *, message: str = "", progress: Progress = silent) -> Derived:
        """Take one operand out of a merge (``merge --undo``); see :func:`erestore.ops.merge.unmerge`."""
        from erestore.ops.merge import unmerge

        return unmerge(self, name, operand, message=message, progress=progress)

    def soup(
        self,
        revisions: Sequence[str],
        *,
        name: str,
        evaluate: Callable[[StateDict], float] | None = None,
        minimise: bool = False,
        choose: str | None = None,
        message: str = "",
    ) -> SoupResult:
        """Record the mean of variants, or with `evaluate` of those that improve its score.

        Parameters
        ----------
        revisions : sequence of str
        name : str
        evaluate : Callable, optional
            Given a candidate's tensors by name, which are read when asked for: ``model.load_state_dict(candidate)`` applies
            them to a live model.
        minimise, choose, message
            See :func:`erestore.ops.soup.soup`.
        """
        from erestore.ops.soup import soup

        score = None if evaluate is None else lambda variant: evaluate(StateDict(variant))
        return soup(self, revisions, name=name, evaluate=score, minimise=minimise, choose=choose, message=message)

    def cherry_pick(
        self,
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
        """Add what a commit changed to another variant; see :func:`erestore.ops.pick.cherry_pick`."""
        from erestore.ops.pick import cherry_pick

        return cherry_pick(
            self,
            revision,
            onto=onto,
            name=name,
            scale=scale,
            tensors=tensors,
            components=components,
            mainline=mainline,
            choose=choose,
            message=message,
        )

    def revert(
        self,
        revision: str,
        *,
        on: str | None = None,
        name: str | None = None,
        mainline: int | None = None,
        choose: str | None = None,
        message: str = "",
    ) -> Derived:
        """Take what a commit changed from a variant; see :func:`erestore.ops.pick.revert`."""
        from erestore.ops.pick import revert

        return revert(self, revision, on=on, name=name, mainline=mainline, choose=choose, message=message)

    def flatten(
        self,
        revision: str,
        *,
        name: str | None = None,
        max_error: float | None = None,
        message: str = "",
        progress: Progress = silent,
    ) -> FlattenResult:
        """Encode what a variant adds to its base as one residual; see :func:`erestore.ops.flatten.flatten`."""
        from erestore.ops.flatten import flatten

        return flatten(self, revision, name=name, max_error=max_error, message=message, progress=progress)

    def repack(
        self,
        revisions: Sequence[str] = (),
        *,
        max_error: float | None = None,
        max_total_rank: int | None = None,
        dry_run: bool = False,
        products_directory: Path | None = None,
        progress: Progress = silent,
    ) -> RepackResult:
        """Encode variants anew against cheaper parents; see :func:`erestore.ops.repack.repack`.

        By default `max_total_rank` is the setting ``commit.flatten_rank``.
        """
        from erestore.ops.repack import repack

        return repack(
            self,
            revisions,
            max_error=max_error,
            max_total_rank=self.setting("commit.flatten_rank") if max_total_rank is None else max_total_rank,
            dry_run=dry_run,
            products_directory=products_directory,
            progress=progress,
        )

    def rebase(
        self,
        revision: str,
        *,
        onto: str,
        name: str,
        carry: bool = False,
        choose: str | None = None,
        max_error: float | None = None,
        message: str = "",
        progress: Progress = silent,
    ) -> RebaseResult:
        """Put a variant on another base; see :func:`erestore.ops.rebase.rebase`."""
        from erestore.ops.rebase import REBASE_ERROR, rebase

        error = REBASE_ERROR if max_error is None else max_error
        return rebase(
            self,
            revision,
            onto=onto,
            name=name,
            carry=carry,
            choose=choose,
            max_error=error,
            message=message,
            progress=progress,
        )

    def bisect(self, good: str, bad: str, passes: Callable[[StateDict], bool]) -> BisectResult:
        """Find the first commit that does not pass a test of its tensors; see :func:`erestore.ops.bisect.bisect`."""
        from erestore.ops.bisect import bisect

        return bisect(self, good, bad, lambda variant: passes(StateDict(variant)))

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

        found = open_revision(self, revision)
        if lossy:
            require_lossy(found.commit, revision, hint="Leave lossy=True out.")
        return StateDict(found.variant(self, lossy=lossy))

    def status(self) -> StatusResult:
        """Count what the store holds; see :func:`erestore.ops.status.status`."""
        from erestore.ops.status import status

        return status(self)

    def log(
        self,
        revisions: Sequence[str] = (),
        *,
        limit: int | None = None,
        topological: bool = False,
        overlap: bool = False,
        products_directory: Path | None = None,
        progress: Progress = silent,
    ) -> Log:
        """List commits, newest first; see :func:`erestore.ops.log.log`."""
        from erestore.ops.log import log

        return log(
            self,
            revisions,
            limit=limit,
            topological=topological,
            overlap=overlap,
            products_directory=products_directory,
            progress=progress,
        )

    def show(
        self,
        revision: str,
        *,
        overlap: bool = False,
        products_directory: Path | None = None,
        progress: Progress = silent,
    ) -> ShowResult:
        """Describe one commit in full; see :func:`erestore.ops.show.show`."""
        from erestore.ops.show import show

        return show(self, revision, overlap=overlap, products_directory=products_directory, progress=progress)

    def diff(
        self,
        a: str,
        b: str | Path | None = None,
        *,
        tensors: str | None = None,
        sort: str = "share",
        details: bool = False,
        spectra_directory: Path | None = None,
        progress: Progress = silent,
    ) -> DiffResult:
        """Compare two revisions, or a revision with a checkpoint; see :func:`erestore.ops.diff.diff`."""
        from erestore.ops.diff import diff

        return diff(
            self,
            a,
            b,
            tensors=tensors,
            sort=sort,
            details=details,
            spectra_directory=spectra_directory,
            progress=progress,
        )

    def report(
        self,
        a: str,
        b: str | Path | None = None,
        *,
        tensors: str | None = None,
        spectra_directory: Path | None = None,
        progress: Progress = silent,
    ) -> str:
        """Return the page of a diff, one HTML file that fetches nothing; see :func:`erestore.report.pages.diff_page`."""
        from erestore.report.pages import diff_page

        return diff_page(
            self.diff(a, b, tensors=tensors, details=True, spectra_directory=spectra_directory, progress=progress)
        )

    def probe(
        self,
        revision: str,
        *,
        settings: ProbeSettings | None = None,
        tensors: str | None = None,
        inputs: Examples | None = None,
        model: torch.nn.Module | None = None,
        features: Features | None = None,
        progress: Progress = silent,
    ) -> ProbeResult:
        """Measure how robust a variant is, and its residual alone; see :func:`erestore.ops.probe.probe`."""
        from erestore.ops.probe import probe

        return probe(
            self,
            revision,
            settings=settings,
            tensors=tensors,
            inputs=inputs,
            model=model,
            features=features,
            progress=progress,
        )

    def similar(
        self,
        revisions: Sequence[str] = (),
        *,
        base: str | None = None,
        angles: bool = False,
        products_directory: Path | None = None,
        progress: Progress = silent,
    ) -> SimilarResult:
        """Compare variants of one base with each other; see :func:`erestore.ops.similar.similar`."""
        from erestore.ops.similar import similar

        return similar(
            self, revisions, base=base, angles=angles, products_directory=products_directory, progress=progress
        )

    def identify(
        self, path: str | Path, *, products_directory: Path | None = None, progress: Progress = silent
    ) -> IdentifyResult:
        """Find what a checkpoint was made from; see :func:`erestore.ops.identify.identify`."""
        from erestore.ops.identify import identify

        return identify(self, path, products_directory=products_directory, progress=progress)

    def blame(self, revision: str, tensor: str) -> BlameResult:
        """Tell which commits changed one tensor; see :func:`erestore.ops.blame.blame`."""
        from erestore.ops.blame import blame

        return blame(self, revision, tensor)

    def branches(self, *, sort: str = "name", where: Sequence[str] = ()) -> tuple[Branch, ...]:
        """List the branches, those that meet conditions on their metrics; see :func:`erestore.ops.branch.branches`."""
        from erestore.ops.branch import branches

        return branches(self, sort=sort, where=where)

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

    def tags(self) -> tuple[Tag, ...]:
        """List the tags, sorted by name."""
        from erestore.ops.tag import tags

        return tags(self)

    def tag(self, name: str, revision: str, *, message: str = "") -> TagChange:
        """Give a commit a name that never moves; see :func:`erestore.ops.tag.tag`."""
        from erestore.ops.tag import tag

        return tag(self, name, revision, message=message)

    def delete_tags(self, names: Sequence[str]) -> tuple[TagChange, ...]:
        """Delete tags; see :func:`erestore.ops.tag.delete_tags`."""
        from erestore.ops.tag import delete_tags

        return delete_tags(self, names)

    def reflog(self, name: str | None = None, *, limit: int | None = None) -> tuple[ReflogEntry, ...]:
        """List where names pointed before, newest first; see :func:`erestore.ops.reflog.reflog`."""
        from erestore.ops.reflog import reflog

        return reflog(self, name, limit=limit)

    def undo(self, operation: str | None = None, *, dry_run: bool = False) -> UndoResult:
        """Take back an operation, by default the last; see :func:`erestore.ops.undo.undo`."""
        from erestore.ops.undo import undo

        return undo(self, operation, dry_run=dry_run)

    def du(self, names: Sequence[str] = (), *, progress: Progress = silent) -> DuResult:
        """Count bytes by name, of some or of all; see :func:`erestore.ops.du.du`."""
        from erestore.ops.du import du

        return du(self, names, progress=progress)

    def gc(
        self,
        *,
        grace_days: float | None = None,
        reflog_days: float | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> GcResult:
        """Delete what no name leads to any more; see :func:`erestore.ops.gc.gc`."""
        from erestore.ops.gc import gc

        grace_days = self.setting("gc.grace_days") if grace_days is None else grace_days
        reflog_days = self.setting("gc.reflog_days") if reflog_days is None else reflog_days
        return gc(self, grace_days=grace_days, reflog_days=reflog_days, dry_run=dry_run, progress=progress)

    def drop_exact(self, name: str, *, dry_run: bool = False) -> DropResult:
        """Give up the exact remainder of a branch (``gc --drop-exact``); see :func:`erestore.ops.drop_exact.drop_exact`.

        Its bytes are freed by :meth:`gc`, once no reflog leads to the exact commit any more.
        """
        from erestore.ops.drop_exact import drop_exact

        return drop_exact(self, name, dry_run=dry_run)

    def unlock(self, *, everything: bool = False, dry_run: bool = False) -> UnlockResult:
        """Remove the leases of operations that were killed; see :func:`erestore.ops.unlock.unlock`."""
        from erestore.ops.unlock import unlock

        return unlock(self, everything=everything, dry_run=dry_run)

    def fsck(self, *, read_data: bool = False, deep: bool = False, progress: Progress = silent) -> FsckResult:
        """Look for damage; see :func:`erestore.ops.fsck.fsck`."""
        from erestore.ops.fsck import fsck

        return fsck(self, read_data=read_data, deep=deep, progress=progress)

    def graph(self) -> nx.DiGraph:
        """Return the lineage of everything that branches and tags lead to.

        Returns
        -------
        networkx.DiGraph
            A node per commit oid, with the fields of :class:`erestore.ops.log.LogEntry`; an edge from parent to child,
            with ``edge`` (``adapted``, ``merged``, ...) and ``position`` (which of its parents the parent is, from 0).
        """
        from erestore.commit_graph import lineage

        return lineage((entry.commit, entry.parents, entry.edge, vars(entry)) for entry in self.log())
