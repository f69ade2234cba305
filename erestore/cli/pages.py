"""Pages that commands write to files."""

from __future__ import annotations

import os
from pathlib import Path

from erestore.errors import TargetExistsError


def require_page(target: Path, *, force: bool) -> None:
    """See before anything is computed that a page can be made, and replaces nothing that is not to be replaced.

    Raises
    ------
    TargetExistsError
        If something is there that is not to be replaced.
    UsageError
        If Jinja or Plotly are not installed.
    """
    from erestore.report.pages import require_pages

    require_pages()
    if os.path.lexists(target) and (target.is_dir() or not force):
        hint = "Give a file name." if target.is_dir() else "Choose another path, or replace it with --force."
        raise TargetExistsError(f"'{target}' already exists.", hint=hint)


def write_page(page: str, target: Path, *, force: bool) -> None:
    """Write a page in one step.

    Raises
    ------
    TargetExistsError
        If something is there that is not to be replaced.
    AccessError
        If it cannot be written.
    """
    from erestore.checkpoint.replace import replacing

    with replacing(target, is_directory=False, force=force) as temporary:
        temporary.write_text(page, encoding="utf-8")
