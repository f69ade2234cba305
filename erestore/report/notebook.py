"""Results as they render in a notebook: plain tables in the notebook's own style, without scripts.

Everything is escaped: names, messages and authors come from whoever wrote the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from erestore.report import probe_text
from erestore.report.sentences import sentences
from erestore.report.words import error_text, minute_text, percent, rank_text, ratio_text, share_text, short, size_text

if TYPE_CHECKING:
    from erestore.results.diff import DiffResult
    from erestore.results.probe import ProbeResult

MOST = 20
"""Rows of a table."""


def table_html(titles: Sequence[str], rows: Iterable[Sequence[str]], *, more: int = 0, text: int = 1) -> str:
    """Return a table.

    Parameters
    ----------
    titles : sequence of str
    rows : iterable of sequence of str
    more : int
        Rows that are left out, to be said below.
    text : int
        Columns, from the first, that are aligned to the left.
    """
    sides = ["left" if column < text else "right" for column in range(len(titles))]

    def line(tag: str, cells: Sequence[str]) -> str:
        shown = zip(cells, sides, strict=True)
        return (
            "<tr>"
            + "".join(f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>' for cell, side in shown)
            + "</tr>"
        )

    body = "".join(line("td", row) for row in rows)
    rest = f"<p>and {more:,} more</p>" if more > 0 else ""
    return f"<table><thead>{line('th', titles)}</thead><tbody>{body}</tbody></table>{rest}"


def facts_html(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """Return a title and a table of names and values; values that are empty are left out."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts
        if value
    )
    return f"<p><b>{escape(title)}</b></p><table><tbody>{rows}</tbody></table>"


def store_html(url: str, branches: Sequence[Any]) -> str:
    """Return a store: a row a branch, of :class:`erestore.ops.branch.Branch`."""
    rows = (
        (
            branch.name,
            branch.base if branch.edge != "imported" else "",
            branch.edge,
            branch.message.partition("\n")[0],
            minute_text(branch.time),
            share_text(branch.stored_bytes, branch.original_bytes),
            "" if branch.edge == "imported" else error_text(branch.relative_error, exact=branch.exact),
        )
        for branch in branches[:MOST]
    )
    titles = ("branch", "base", "edge", "message", "time", "size", "error")
    table = table_html(titles, rows, more=len(branches) - MOST, text=5) if branches else "<p>no branches yet</p>"
    return f"<p><b>store</b> {escape(url)}</p>{table}"


def commit_html(commit: Any) -> str:
    """Return a commit, of :class:`erestore.ops.commit.CommitResult` or :class:`erestore.ops.show.ShowResult`."""
    shown = {
        "names": ", ".join(getattr(commit, "refs", ())) or getattr(commit, "ref", ""),
        "edge": getattr(commit, "edge", ""),
        "base": commit.base,
        "parents": ", ".join(map(short, commit.parents)),
        "size": share_text(commit.stored_bytes, commit.original_bytes),
        "error": error_text(
            commit.relative_error,
            exact=commit.exact,
            bound=getattr(commit, "error_bound", None),
            lossy=getattr(commit, "lossy_error", None),
        ),
        "message": getattr(commit, "message", ""),
        "metrics": ", ".join(f"{name} {value}" for name, value in sorted(getattr(commit, "metrics", {}).items())),
    }
    title = f"commit {short(commit.commit)}" if commit.commit else "commit (dry run)"
    return facts_html(title, shown.items())


def log_html(entries: Sequence[Any]) -> str:
    """Return a log: a row a commit, of :class:`erestore.ops.log.LogEntry`."""
    rows = (
        (
            short(entry.commit),
            ", ".join(entry.refs),
            entry.edge,
            entry.message.partition("\n")[0],
            minute_text(entry.time),
            size_text(entry.stored_bytes),
            ""
            if entry.edge == "imported"
            else error_text(entry.relative_error, exact=entry.exact, bound=entry.error_bound, lossy=entry.lossy_error),
        )
        for entry in entries[:MOST]
    )
    titles = ("commit", "names", "edge", "message", "time", "size", "error")
    return table_html(titles, rows, more=len(entries) - MOST, text=5)


def diff_html(result: DiffResult) -> str:
    """Return a spectral diff: what it says in sentences, and the tensors that moved most."""
    moved = [tensor for tensor in result.tensors if tensor.norm]
    rows = (
        (
            tensor.name,
            "×".join(map(str, tensor.shape)) or "1",
            percent(tensor.share),
            percent(tensor.relative_norm),
            rank_text(tensor.effective_rank, tensor.full_rank),
            ratio_text(tensor.effective_rank_ratio),
            percent(tensor.energy_in_tenth),
        )
        for tensor in moved[:MOST]
    )
    titles = ("tensor", "shape", "share", "moved", "effective rank", "× base", "energy in 10 %")
    told = "".join(f"<p>{escape(line)}</p>" for line in sentences(result))
    return told + (table_html(titles, rows, more=len(moved) - MOST) if moved else "")


def probe_html(result: ProbeResult) -> str:
    """Return what a probe found: what it says in sentences, and a table for each kind."""
    html = "".join(f"<p>{escape(line)}</p>" for line in probe_text.sentences(result))
    for part in (result.perturb, result.truncate, result.allocation, result.stiefel):
        if part is not None:
            columns = probe_text.columns(part)
            rows = zip(*(column.cells for column in columns), strict=True)
            html += f"<p><b>{escape(probe_text.title(part))}</b></p>{table_html([c.title for c in columns], rows)}"
    return f"{html}<p>{escape(probe_text.legend(result))}</p>"
