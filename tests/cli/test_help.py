"""The help texts and the reference pages agree with the commands."""

from __future__ import annotations

import re
import shlex

import pytest
from commands import ROOT, Here

from erestore.cli.main import cli
from erestore.cli.session import VerbCommand
from erestore.settings import SETTINGS, variable

COMMANDS = (
    *"init import calibrate commit checkout verify status log show diff report similar identify blame probe".split(),  # noqa: SIM905
    *"branch tag reflog undo merge soup cherry-pick revert rebase flatten repack bisect".split(),  # noqa: SIM905
    *"cat du gc unlock fsck ui config".split(),  # noqa: SIM905
)


def test_commands_are_those_of_the_reference() -> None:
    assert list(cli.commands) == [name for name in cli.commands if name in COMMANDS]
    assert set(cli.commands) == set(COMMANDS)
    text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    table = text.partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {match for row in rows for match in re.findall(r"`([a-z-]+)[` ]", row)} == set(COMMANDS)


def test_settings_are_those_of_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    documented = re.findall(
        r"^\| `(\w+\.\w+)` \| (?:`(\w+)`)? ?\| (.*?) \| (yes|no) \| (yes|no) \|$", text, re.MULTILINE
    )
    assert [key for key, *_ in documented] == list(SETTINGS)
    for key, name, default, store, user in documented:
        setting = SETTINGS[key]
        assert name in (variable(key), "")
        assert default == setting.default or not isinstance(setting.default, str)
        scopes = tuple(scope for scope, is_one in (("store", store), ("user", user)) if is_one == "yes")
        assert scopes == setting.scopes


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_complete(here: Here, name: str) -> None:
    ran = here.run(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    command = cli.commands[name]
    assert isinstance(command, VerbCommand)
    assert str(command.short_help).endswith(".")
    assert len(str(command.short_help)) < 65
    for parameter in command.params:
        if help_text := getattr(parameter, "help", None):
            assert re.fullmatch(r"[A-Z].*[.\d]", help_text, re.DOTALL), help_text
    examples = [line.strip() for line in ran.out.split("Example")[-1].splitlines()[1:] if line.strip()]
    assert examples
    for example in examples:
        program, used, *arguments = shlex.split(example.removeprefix("$ "))
        assert program == "erestore"
        # What an example uses has to exist: it is parsed, not run.
        cli.commands[used].make_context(used, arguments, resilient_parsing=False)
    assert any(example.startswith(f"$ erestore {name}") for example in examples)


def test_version_and_overview(here: Here) -> None:
    assert here.run("--version").out.startswith("erestore ")
    text = here.run("-h").out
    assert all(re.search(rf"^  {name} +[A-Z]", text, re.MULTILINE) for name in COMMANDS)
    assert "..." not in text.split("Commands:")[1]
