"""A git-like, content-addressed store for many variants of one model.

Public names load on first use, so that ``import erestore`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erestore.analysis.probe.settings import ProbeSettings as ProbeSettings
    from erestore.api import Store as Store
    from erestore.encoding.gate import Gate as Gate
    from erestore.encoding.quality import Quality as Quality
    from erestore.errors import AccessError as AccessError
    from erestore.errors import CheckpointError as CheckpointError
    from erestore.errors import CombinationError as CombinationError
    from erestore.errors import ConflictError as ConflictError
    from erestore.errors import CorruptionError as CorruptionError
    from erestore.errors import ErestoreError as ErestoreError
    from erestore.errors import GateError as GateError
    from erestore.errors import KeyNotFoundError as KeyNotFoundError
    from erestore.errors import MissingObjectError as MissingObjectError
    from erestore.errors import NotFoundError as NotFoundError
    from erestore.errors import ProtectedBranchError as ProtectedBranchError
    from erestore.errors import RefConflictError as RefConflictError
    from erestore.errors import RemoteError as RemoteError
    from erestore.errors import StoreNotFoundError as StoreNotFoundError
    from erestore.errors import TargetExistsError as TargetExistsError
    from erestore.errors import UnknownRevisionError as UnknownRevisionError
    from erestore.errors import UnsafeRemoteError as UnsafeRemoteError
    from erestore.errors import UnsupportedFormatError as UnsupportedFormatError
    from erestore.errors import UsageError as UsageError
    from erestore.variant.state_dict import StateDict as StateDict

__version__ = "0.1.0"

_HOMES = {
    "AccessError": "erestore.errors",
    "CheckpointError": "erestore.errors",
    "CombinationError": "erestore.errors",
    "ConflictError": "erestore.errors",
    "CorruptionError": "erestore.errors",
    "ErestoreError": "erestore.errors",
    "Gate": "erestore.encoding.gate",
    "GateError": "erestore.errors",
    "KeyNotFoundError": "erestore.errors",
    "MissingObjectError": "erestore.errors",
    "NotFoundError": "erestore.errors",
    "ProbeSettings": "erestore.analysis.probe.settings",
    "ProtectedBranchError": "erestore.errors",
    "Quality": "erestore.encoding.quality",
    "RefConflictError": "erestore.errors",
    "RemoteError": "erestore.errors",
    "StateDict": "erestore.variant.state_dict",
    "Store": "erestore.api",
    "StoreNotFoundError": "erestore.errors",
    "TargetExistsError": "erestore.errors",
    "UnknownRevisionError": "erestore.errors",
    "UnsafeRemoteError": "erestore.errors",
    "UnsupportedFormatError": "erestore.errors",
    "UsageError": "erestore.errors",
}
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - one list of names, not two


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'erestore' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
