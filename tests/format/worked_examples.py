"""The fenced blocks of docs/format.md that are marked ``example``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
_BLOCK = re.compile(r"^```example ([\w-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEX = re.compile(r"((?:[0-9a-f]{2} )*[0-9a-f]{2}) *\|.*")


@dataclass(frozen=True)
class Example:
    """One block: its kind, what ``name: value`` lines say, and the bytes, in parts where ``part: length`` lines cut them."""

    kind: str
    line: int
    facts: dict[str, str]
    lines: tuple[str, ...]
    parts: tuple[bytes, ...]

    @property
    def stored(self) -> bytes:
        """All bytes."""
        return b"".join(self.parts)


def examples() -> Iterator[Example]:
    """Yield the blocks in order."""
    text = DOCUMENT.read_text()
    for match in _BLOCK.finditer(text):
        facts: dict[str, str] = {}
        parts: list[tuple[int | None, bytearray]] = [(None, bytearray())]
        lines = tuple(match[2].splitlines())
        for line in lines:
            name, _, value = line.partition(": ")
            if stored := _HEX.fullmatch(line):
                parts[-1][1].extend(bytes.fromhex(stored[1]))
            elif name == "part":
                parts.append((int(value), bytearray()))
            else:
                facts[name] = value
        assert all(length in (None, len(content)) for length, content in parts)
        held = tuple(bytes(content) for length, content in parts if length is not None or content)
        yield Example(match[1], text[: match.start()].count("\n") + 1, facts, lines, held)
