"""The JSON of every verb on a fixed store is field for field what it was when it was recorded; fields may be added.

``python tests/golden/test_json_fields.py`` records again. What is printed of metadata is compared by value; of what is
computed or written, by its fields and their types.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

HERE = Path(__file__).parent
RECORDING = HERE / "json_fields.json"

BY_VALUE = (
    "status",
    "log",
    "log nearer",
    "show merged",
    "show team/exact",
    "show grandchild",
    "branch",
    "tag",
    "reflog",
    "reflog lossy",
    "fsck",
    "unlock --dry-run",
)
BY_TYPE = (
    "config",
    "du",
    "du lossy child",
    "show --overlap grandchild",
    "diff lossy child",
    "similar",
    "blame grandchild dense.weight",
    "probe lossy --truncate --shares 1,0.5",
    "gc --dry-run",
    "undo --dry-run",
    "repack --dry-run lossy",
    "checkout lossy {folder}",
    "verify {folder} lossy",
    "identify {folder}",
    "commit {folder} --name again --base base --dry-run",
    "commit {folder} --name again --base base --exact",
    "merge lossy paper --name mean",
    "merge lossy paper --name ties --strategy ties",
    "soup lossy paper --name soup",
    "cherry-pick child --onto paper --name picked",
    "revert child --on grandchild --name reverted",
    "flatten grandchild --name flat",
    "tag v2 lossy",
    "branch other lossy",
    "branch -d other",
    "undo",
)


def masked(value: Any, store: Path, folder: Path) -> Any:
    """Put names in the place of temporary folders."""
    text = json.dumps(value)
    return json.loads(text.replace(str(folder), "FOLDER").replace(str(store), "STORE"))


def typed(value: Any) -> Any:
    """Return the fields of a value and their types: an object's by name, a list's as those of its first item."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def results(directory: Path) -> dict[str, Any]:
    """Run every command on a copy of the golden store, in order, and return its exit code and its JSON."""
    from erestore.cli.main import cli

    store, folder = directory / "store", directory / "folder"
    shutil.copytree(HERE / "v1" / "store", store)
    runner = CliRunner()
    found = {}
    for command in (*BY_VALUE, *BY_TYPE):
        words = [word.format(folder=folder) for word in command.split()]
        done = runner.invoke(cli, ["--store", str(store), *words, "--json"], env={"ERESTORE_AUTHOR": "Ada"})
        printed = masked(json.loads(done.stdout), store, folder) if done.stdout.strip() else None
        found[command] = {"exit": done.exit_code, "json": printed if command in BY_VALUE else typed(printed)}
    return found


def missing(recorded: Any, current: Any, place: str) -> list[str]:
    """Return where something recorded is not there any more, or is another."""
    if isinstance(recorded, dict) and isinstance(current, dict):
        gone = [f"{place}.{name}: gone" for name in recorded.keys() - current.keys()]
        return gone + [
            line
            for name in recorded.keys() & current.keys()
            for line in missing(recorded[name], current[name], f"{place}.{name}")
        ]
    if isinstance(recorded, list) and isinstance(current, list):
        if len(recorded) != len(current):
            return [f"{place}: {len(recorded)} items, now {len(current)}"]
        pairs = enumerate(zip(recorded, current, strict=True))
        return [line for at, (one, other) in pairs for line in missing(one, other, f"{place}[{at}]")]
    absent = "NoneType" in (recorded, current)  # a value that only sometimes is there
    return [] if absent or recorded == current else [f"{place}: {recorded!r}, now {current!r}"]


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return results(tmp_path_factory.mktemp("json"))


@pytest.mark.parametrize("command", [*BY_VALUE, *BY_TYPE])
def test_no_field_is_gone(current: Mapping[str, Any], command: str) -> None:
    recorded = json.loads(RECORDING.read_text())[command]
    assert missing(recorded, current[command], command) == []


if __name__ == "__main__":
    import tempfile

    os.environ["HOME"] = tempfile.mkdtemp()
    with tempfile.TemporaryDirectory() as temporary:
        RECORDING.write_text(json.dumps(results(Path(temporary)), indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{RECORDING.name}\n")
