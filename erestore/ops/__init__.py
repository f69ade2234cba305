"""One verb per file; each is also a method of ``erestore.Store``. A verb's module loads when it is first named."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erestore.ops import bisect as bisect
    from erestore.ops import blame as blame
    from erestore.ops import branch as branch
    from erestore.ops import calibrate as calibrate
    from erestore.ops import cat as cat
    from erestore.ops import checkout as checkout
    from erestore.ops import cherry_pick as cherry_pick
    from erestore.ops import commit as commit
    from erestore.ops import config as config
    from erestore.ops import diff as diff
    from erestore.ops import drop_exact as drop_exact
    from erestore.ops import du as du
    from erestore.ops import flatten as flatten
    from erestore.ops import fsck as fsck
    from erestore.ops import gc as gc
    from erestore.ops import identify as identify
    from erestore.ops import import_base as import_base
    from erestore.ops import log as log
    from erestore.ops import merge as merge
    from erestore.ops import probe as probe
    from erestore.ops import rebase as rebase
    from erestore.ops import reflog as reflog
    from erestore.ops import repack as repack
    from erestore.ops import show as show
    from erestore.ops import similar as similar
    from erestore.ops import soup as soup
    from erestore.ops import status as status
    from erestore.ops import tag as tag
    from erestore.ops import undo as undo
    from erestore.ops import unlock as unlock
    from erestore.ops import verify as verify


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return import_module(f"erestore.ops.{name}")
