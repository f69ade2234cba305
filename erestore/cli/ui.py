"""``erestore ui``."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from contextlib import suppress

import click

from erestore.cli.session import Session, cache_directory, is_terminal, verb

INTERRUPTED = 130
_WAIT = 0.25
"""Seconds."""


@verb(
    "ui",
    "Browse the store.",
    example="erestore ui\nerestore ui --port 8123 --no-browser",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Port to listen on. Default: any free port."
)
@click.option(
    "--no-browser", is_flag=True, help="Only print the address; by default a browser is opened on a terminal."
)
@click.pass_context
def ui(ctx: click.Context, *, port: int, no_browser: bool) -> None:
    """Serve a page over the store, to this machine only, until Ctrl-C.

    It shows the lineage, commits, comparisons of two or more, similarity and storage, and changes nothing. The address
    contains a new token each time; anyone who has it can see the store.
    """
    from erestore.ui.server import serve

    session: Session = ctx.obj
    directories = {"products": cache_directory("products"), "spectra": cache_directory("spectra")}
    with session.open() as store, serve(store, port=port, **directories) as served:
        try:
            click.echo(served.address)
            session.say("Press Ctrl-C to stop.")
            if is_terminal(sys.stdout) and not no_browser and _has_screen():
                # Some browsers return when they are closed.
                threading.Thread(target=_open, args=(served.ticket,), daemon=True).start()
            # Python hears a signal that comes just before a wait begins only when the wait is over: it must have an end.
            while served.thread.is_alive():
                served.thread.join(_WAIT)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def _has_screen() -> bool:
    """Return whether a browser would open a window; one that is for terminals would take this one."""
    names = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in names)


def _open(address: str) -> None:
    with suppress(webbrowser.Error):
        webbrowser.open(address)
