"""The view of two or more commits beside each other."""

from __future__ import annotations

from starlette.requests import Request

from erestore.errors import UsageError
from erestore.history.revision import open_revision
from erestore.ops.diff import diff
from erestore.progress import Progress
from erestore.report.pages import diff_values
from erestore.ui.desk import Desk
from erestore.ui.fleet import similarity
from erestore.ui.pages import page

MOST = 200
"""Revisions that an address may name."""


def compare(desk: Desk, request: Request) -> str:
    """Return the spectral diff of two revisions, or the similarity of more.

    Raises
    ------
    UsageError
        If fewer than two are named, or too many.
    UnknownRevisionError
        If one names nothing.
    """
    now, top = desk.now(), f"{request.scope['root_path']}/"
    revisions = tuple(dict.fromkeys(request.query_params.getlist("rev")))
    if not 2 <= len(revisions) <= MOST:
        raise UsageError(f"Two to {MOST} revisions can be compared.", hint="Pick them in the list of the lineage.")
    # What is not a revision would be taken for the path of a checkpoint; a page shows nothing but the store.
    opened = [open_revision(now, revision) for revision in revisions]
    if len(opened) > 2:
        return similarity(desk, request)
    one, two = (target.oid or target.text for target in opened)

    def make(progress: Progress) -> str:
        result = diff(now, one, two, details=True, spectra_directory=desk.spectra_directory, progress=progress)
        return page("diff.html.j2", top, state=now.state, script="diff.js", store=now.url, **diff_values(result))

    return desk.computing.ask((now.state, "diff", one, two), make)
