"""The application: addresses, and what is answered there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from erestore.api import Store
from erestore.errors import ConflictError, ErestoreError, NotFoundError, UsageError
from erestore.report.json_values import plain
from erestore.storage.access import access_error
from erestore.ui import commit_views, comparison, fleet
from erestore.ui.desk import Desk
from erestore.ui.guard import HEADERS, NAMES, Guard, Headers
from erestore.ui.jobs import UnfinishedError
from erestore.ui.pages import assets, page, prepare

View = Callable[[Desk, Request], str]

_STATUS = ((NotFoundError, 404), (UsageError, 400), (ConflictError, 409), (ErestoreError, 500))


@dataclass(frozen=True)
class CacheDirectories:
    """Where results that take long to compute are kept between runs; None to keep nothing.

    Attributes
    ----------
    products : Path or None
        Inner products of residuals.
    spectra : Path or None
        Spectra of base tensors.
    """

    products: Path | None = None
    spectra: Path | None = None


def application(store: Store, token: str, ticket: str, directories: CacheDirectories | None = None) -> ASGIApp:
    """Return the application, guarded.

    Parameters
    ----------
    store : Store
        Read only.
    token, ticket : str
        See :class:`erestore.ui.guard.Guard`.
    directories : CacheDirectories, optional
    """
    directories = directories or CacheDirectories()
    desk = Desk(store, directories.products, directories.spectra)
    prepare()
    routes = [
        Route("/", _endpoint(desk, commit_views.lineage)),
        Route("/commit/{oid}", _endpoint(desk, commit_views.commit)),
        Route("/compare", _endpoint(desk, comparison.compare)),
        Route("/similarity", _endpoint(desk, fleet.similarity)),
        Route("/storage", _endpoint(desk, fleet.storage)),
        Route("/usage/{oid}", _usage(desk)),
        Route("/state", _state(desk)),
        Route("/assets/{name}", _asset),
        Route("/{rest:path}", _endpoint(desk, _no_page)),
    ]
    guarded = Guard(Starlette(routes=routes), token, ticket)
    return Headers(TrustedHostMiddleware(guarded, allowed_hosts=NAMES, www_redirect=False), HEADERS)


def _endpoint(desk: Desk, view: View) -> Callable[[Request], Response]:
    """Answer with a page: of the view, of how far its work is, or of one sentence that says what is wrong."""

    def answer(request: Request) -> Response:
        top = f"{request.scope['root_path']}/"
        try:
            return HTMLResponse(view(desk, request))
        except UnfinishedError as unfinished:
            return HTMLResponse(page("working.html.j2", top, title="Working", job=unfinished.job), status_code=202)
        except Exception as error:  # noqa: BLE001 - whatever one page meets, the server goes on
            problem = _as_erestore_error(error)
            status = next(code for kind, code in _STATUS if isinstance(problem, kind))
            return HTMLResponse(page("error.html.j2", top, title="Error", error=problem), status_code=status)

    return answer


def _as_erestore_error(error: Exception) -> ErestoreError:
    """Return a failure as a sentence and a next step."""
    if isinstance(error, ErestoreError):
        return error
    if isinstance(error, OSError):
        return access_error(error, "use", error.filename or "the store")
    return ErestoreError(
        f"Something unexpected happened ({type(error).__name__}: {error}).",
        hint="This is a fault in erestore: please report it.",
    )


def _no_page(_desk: Desk, request: Request) -> str:
    raise NotFoundError(f"There is no page '{request.path_params['rest'][:80]}'.", hint="Go to the lineage.")


def _usage(desk: Desk) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        try:
            return JSONResponse({"usages": plain(fleet.usages(desk, request.path_params["oid"]))})
        except UnfinishedError:
            return JSONResponse({"usages": None}, status_code=202)
        except Exception as error:  # noqa: BLE001 - as above
            return JSONResponse({"error": _as_erestore_error(error).message}, status_code=500)

    return answer


def _state(desk: Desk) -> Callable[[Request], Response]:
    def answer(_request: Request) -> Response:
        try:
            return JSONResponse({"state": desk.now().state})
        except Exception as error:  # noqa: BLE001 - as above
            return JSONResponse({"error": _as_erestore_error(error).message}, status_code=500)

    return answer


def _asset(request: Request) -> Response:
    asset = assets().get(request.path_params["name"])
    if asset is None:
        return Response(status_code=404)
    # The address changes with the token, and so with the version.
    return Response(
        asset.content, media_type=asset.media_type, headers={"cache-control": "private, max-age=86400, immutable"}
    )
