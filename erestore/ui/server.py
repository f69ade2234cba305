"""Serving the page: a socket on this machine only, a thread that answers, and the address to open."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.api import Store
from erestore.errors import ConflictError, UsageError
from erestore.report.pages import require_pages
from erestore.storage.access import access_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn import Config

HOST = "127.0.0.1"
INSTALL = "pip install 'erestore[ui]'"
_ENDING = 2.0
"""Seconds that the thread gets to end; requests that are still being answered are dropped."""
_TURN = 0.0005
"""Seconds after which a thread that computes gives way to one that answers; Python's own 0.005 would pass at every file."""


@dataclass(frozen=True)
class Served:
    """A page that can be opened.

    Attributes
    ----------
    address : str
        For people; it holds the token.
    ticket : str
        Leads to it once: for what starts a browser, whose arguments all users of a machine can see.
    port : int
    thread : Thread
        Answers until the end.
    """

    address: str
    ticket: str
    port: int
    thread: threading.Thread


@contextmanager
def serve(
    store: Store, *, port: int = 0, products: Path | None = None, spectra: Path | None = None
) -> Iterator[Served]:
    """Serve the page of a store until the block ends.

    Parameters
    ----------
    store : Store
    port : int
        0 for any that is free.
    products, spectra : Path, optional
        See :class:`erestore.ui.app.CacheDirectories`.

    Raises
    ------
    ConflictError
        If something else listens there.
    AccessError
        If the system does not allow it.
    UsageError
        If Starlette, uvicorn, Jinja or Plotly are not installed.
    """
    try:
        require_pages()  # says so at once, and not on the first page
    except UsageError as error:
        error.hint = INSTALL
        raise
    try:
        from uvicorn import Server

        from erestore.ui.app import CacheDirectories, application
        from erestore.ui.guard import new_token
    except ImportError as error:
        raise UsageError(f"The page needs {error.name}, which is not installed.", hint=INSTALL) from None
    token, ticket = new_token(), new_token()
    with _listen(port) as listening, _quick_turns():
        app = application(store, token, ticket, CacheDirectories(products, spectra))
        server = Server(_configuration(app))
        # Signals go to the main thread, whose handlers are the command line's.
        thread = threading.Thread(target=server.run, args=([listening],), name="erestore-ui", daemon=True)
        thread.start()
        number = listening.getsockname()[1]
        origin = f"http://{HOST}:{number}"
        try:
            yield Served(f"{origin}/{token}/", f"{origin}/{ticket}", number, thread)
        finally:
            server.should_exit = server.force_exit = True
            thread.join(_ENDING)


@contextmanager
def _quick_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _configuration(app: ASGIApp) -> Config:
    from uvicorn import Config

    return Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",
        proxy_headers=False,
        server_header=False,
    )


@contextmanager
def _listen(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # Without it a port could not be used again for a minute after connections were closed.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConflictError(
                    f"Port {port} of this machine is already in use.",
                    hint="Choose another --port, or omit it to use any free port.",
                ) from None
            raise access_error(error, "listen on", f"port {port}") from error
        yield listener
