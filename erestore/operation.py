"""Operations: what one call of a verb that writes records of itself in every ref that it moves."""

from __future__ import annotations

import socket
import time
import uuid
from dataclasses import dataclass
from typing import Self

from erestore.storage.holder import user_name


def new_id() -> str:
    """Return a random id for a writer, an operation or a store."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Operation:
    """One call of a verb that writes: the entries it makes in refs share its id, so that ``undo`` takes all back."""

    id: str
    writer: str
    author: str
    time: int
    undoes: str | None = None

    @classmethod
    def begin(cls, author: str | None = None, *, undoes: str | None = None) -> Self:
        """Start an operation now; the author is `author`, else user and machine."""
        return cls(new_id(), new_id(), author or default_author(), time.time_ns() // 1000, undoes)


def default_author() -> str:
    """Return user and machine."""
    return f"{user_name()}@{socket.gethostname()}"
