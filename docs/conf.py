"""The site of these pages, as the step "docs" of ``tests/run`` builds it: ``python -m sphinx -W docs FOLDER``."""

import re
from importlib import import_module, metadata
from inspect import getdoc
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "erestore"
author = "the authors of erestore"
project_copyright = "the authors of erestore, Apache-2.0"
release = metadata.version("erestore")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme = "furo"
html_title = f"erestore {release}"
html_show_sourcelink = False
smartquotes = False  # they make one dash of the two of an option

myst_heading_anchors = 4  # so that links to headings work here as they do on GitHub
autodoc_typehints = "none"
autodoc_class_signature = "separated"  # results have twenty fields; they are listed once, with what they mean
napoleon_use_ivar = True

CHILDREN = {"decisions/README": "0*"}
"""Pages that lead to others by a list that a reader on GitHub sees too; the navigation needs a ``toctree`` besides."""

DELEGATED = re.compile(r"[;.]? see :func:`(erestore\.[\w.]+)\.(\w+)`\.?", re.IGNORECASE)
"""How a method of ``Store`` says which function it calls."""

STORE = re.compile(r"(?m)^(Parameters\n-+\n)store : Store\n(?:    .*\n)*")
"""The first parameter of such a function, which a method is bound to."""


def adapt_page(_: Sphinx, page: str, source: list[str]) -> None:
    """Add the pages that a page leads to, below it in the navigation; lead to the site's copy of what stands outside."""
    source[0] = source[0].replace("](../../CONTRIBUTING.md)", "](../contributing.md)")
    if page in CHILDREN:
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{CHILDREN[page]}\n```\n"


def document_verbs(_: Sphinx, kind: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Give a method the parameters, results and errors of the function that it calls, less the store."""
    if kind != "method":
        return
    text = "\n".join(lines)
    if delegate := DELEGATED.search(text):
        function = getattr(import_module(delegate[1]), delegate[2])
        _, _, details = (getdoc(function) or "").partition("\n")
        text = DELEGATED.sub(".", text).rstrip() + "\n" + details
    lines[:] = STORE.sub(r"\1", text).splitlines()


def setup(app: Sphinx) -> None:
    """Register what the settings above cannot say."""
    app.add_lexer("example", TextLexer)  # the worked examples of the format, which a test reads
    app.connect("source-read", adapt_page)
    app.connect("autodoc-process-docstring", document_verbs, priority=400)  # before napoleon reads the sections
