"""Who holds a lease: user, machine and process, and whether that process is known to be gone."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat behind the command's name, see proc(5)


@dataclass(frozen=True)
class Holder:
    """A process.

    Attributes
    ----------
    user, host : str
    pid : int
    boot : str
        Identifies a start of a kernel and a namespace of its processes, so that a `pid` of another container or of before
        a reboot is not taken for one of here; empty where the system does not say.
    started : int
        When the process started, in ticks since the kernel did: a later process with its number has another.
    """

    user: str
    host: str
    pid: int
    boot: str
    started: int

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        status = _status(os.getpid())
        return cls(user_name(), socket.gethostname(), os.getpid(), _boot(), int(status[_STARTED]) if status else 0)

    @classmethod
    def from_record(cls, record: object) -> Self | None:
        """Read what :meth:`to_record` wrote; None for anything else, which nobody depends on."""
        if not isinstance(record, Mapping):
            return None
        with suppress(TypeError):
            holder = cls(**record)
            if [type(value) for value in asdict(holder).values()] == [str, str, int, str, int]:
                return holder
        return None

    def to_record(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    @property
    def is_gone(self) -> bool:
        """Whether it is known to run no more: it ran on this machine and does not."""
        if not self.boot or (self.host, self.boot) != (socket.gethostname(), _boot()):
            return False
        status = _status(self.pid)
        if not status:
            return not _is_hidden(self.pid)
        return status[_STATE] == "Z" or int(status[_STARTED]) != self.started

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}"


def user_name() -> str:
    """Return the user's name, else the number: in a container there may be no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def _boot() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:  # not Linux, or a sandbox
        return ""


def _is_hidden(pid: int) -> bool:
    """Return whether there is a process that this user may not see, as where /proc is mounted with ``hidepid``."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _status(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
