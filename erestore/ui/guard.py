"""Who may ask: programs on this machine that know the token, by a name of this machine, and only to read.

The token is the first part of every path, and not a cookie: browsers send a cookie to every port of a host, so that another
server on this machine would be told, and two pages would take each other's. A path goes to nobody else, as no page links
elsewhere and no referrer is sent; a page of another origin can neither know it nor read what is behind it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost")
"""What the page may be asked for as. A name of somebody else's may be made to lead here (DNS rebinding); it is refused. Any
port will do: a tunnel has one of its own."""

METHODS = ("GET", "HEAD")

HEADERS = {
    "cache-control": "no-store",
    # Plotly sets styles of elements; scripts, data and pictures come from here or are made by the page.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def new_token() -> str:
    """Return 256 random bits as text."""
    return secrets.token_urlsafe(32)


class Headers:
    """Give every response headers that it does not have itself.

    Parameters
    ----------
    app : ASGIApp
    headers : Mapping[str, str]
    """

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app, self._headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Guard:
    """Let requests through whose path begins with the token, and whose method only reads.

    Parameters
    ----------
    app : ASGIApp
        Finds the token in ``root_path``.
    token : str
    ticket : str
        A path that leads to the token once: what a browser is started with can be read by all users of the machine.
    """

    def __init__(self, app: ASGIApp, token: str, ticket: str) -> None:
        self._app, self._token, self._ticket = app, token, ticket
        self._is_used = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        segment, slash, _ = scope["path"].removeprefix("/").partition("/")
        answer = self._refusal(scope["method"], segment, is_whole=bool(slash))
        if answer is None:
            await self._app({**scope, "root_path": f"/{self._token}"}, receive, send)
        else:
            await answer(scope, receive, send)

    def _refusal(self, method: str, segment: str, *, is_whole: bool) -> Response | None:
        if _equals(segment, self._token):
            if not is_whole:
                return RedirectResponse(f"/{self._token}/", status_code=308)
            if method not in METHODS:
                return PlainTextResponse(
                    "This page is read-only.\n", status_code=405, headers={"allow": ", ".join(METHODS)}
                )
            return None
        if _equals(segment, self._ticket) and not self._is_used:
            self._is_used = True
            return RedirectResponse(f"/{self._token}/", status_code=303)
        return PlainTextResponse(
            "This address lacks the token. Open the one that `erestore ui` printed when it was started.\n",
            status_code=403,
        )


def _equals(text: str, secret: str) -> bool:
    return secrets.compare_digest(text.encode(), secret.encode())
