"""Pages of the server: any page that would be a file of its own, with links to the others around it."""

from __future__ import annotations

import threading
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from erestore.report.pages import asset, environment, plotly_source

if TYPE_CHECKING:
    from jinja2 import Environment

VIEWS = (("", "Lineage"), ("similarity", "Similarity"), ("storage", "Storage"))


class Asset(NamedTuple):
    """A script or a style sheet."""

    content: str
    media_type: str


def page(template: str, top: str, *, state: str = "", view: str | None = None, script: str = "", **values: Any) -> str:
    """Return a page.

    Parameters
    ----------
    template : str
        What it shows.
    top : str
        Path of the first page.
    state : str
        Of the store, when it was read.
    view : str, optional
        Which of :data:`VIEWS` it is.
    script : str
        Of its own; it runs whenever the page is put into place.
    **values
        For the template.
    """
    shell = {"inside": template, "top": top, "state": state, "views": VIEWS, "view": view, "script": script}
    return _environment().get_template("shell.html.j2").render(shell | values)


def prepare() -> None:
    """Begin to compile all templates, which takes longer than to fill one."""
    templates = _environment()
    names = templates.list_templates(filter_func=lambda name: name.endswith(".j2"))
    threading.Thread(target=lambda: [templates.get_template(name) for name in names], daemon=True).start()


@cache
def _environment() -> Environment:
    from jinja2 import ChoiceLoader, PackageLoader

    common = environment()
    assert common.loader is not None
    templates = common.overlay(loader=ChoiceLoader([PackageLoader("erestore.ui"), common.loader]))
    templates.globals |= common.globals
    templates.filters["query"] = query
    return templates


def query(revisions: list[str] | tuple[str, ...]) -> str:
    """Return the part of an address that names revisions."""
    return urlencode([("rev", revision) for revision in revisions], quote_via=quote)


@cache
def assets() -> dict[str, Asset]:
    """Return all scripts and style sheets by name."""
    script, style = "text/javascript", "text/css"
    common = {"page.css": style, "lineage.css": style, "page.js": script, "lineage.js": script, "diff.js": script}
    by_name = {name: Asset(str(asset(name)), kind) for name, kind in common.items()}
    by_name["plotly.js"] = Asset(str(plotly_source()), script)
    for file in files("erestore.ui").joinpath("assets").iterdir():
        if file.name.endswith((".js", ".css")):
            by_name[file.name] = Asset(file.read_text(encoding="utf-8"), script if file.name.endswith(".js") else style)
    return by_name
