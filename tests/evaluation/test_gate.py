"""A gate: the most is lost that a test of the user's lets through, and only what passed reaches the store."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.checkpoint import marker
from erestore.checkpoint.open import open_checkpoint
from erestore.cli.main import run
from erestore.encoding import residual_encoder
from erestore.encoding.gate import Gate, Trial
from erestore.encoding.quality import Quality
from erestore.errors import GateError, NotFoundError, UsageError

SHAPES = {"dense.weight": (300, 200), "embed.weight": (500, 64), "head.bias": (300,), "norm.weight": (200,)}

MEASURE = """
import sys
from safetensors.numpy import load_file

base, tuned, found = (load_file(path) for path in ("base.safetensors", "ft.safetensors", sys.argv[1]))
assert base.keys() < tuned.keys() == found.keys()
lost = sum(((found[key].astype("f8") - tuned[key]) ** 2).sum() for key in base)
print("measured", lost / sum(((base[key].astype("f8") - tuned[key]) ** 2).sum() for key in base))
sys.exit(int(lost / sum(((base[key].astype("f8") - tuned[key]) ** 2).sum() for key in base) > float(sys.argv[2])))
"""


def weights(seed: int, share: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: share * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Place:
    """A directory with a base, a fine-tune, a store with the base, and a script that measures the relative error."""

    def __init__(self, directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.directory, self._capfd = directory, capfd
        self.store = Store.open("store")

    def commit(self, gate: str, *more: str) -> Ran:
        self._capfd.readouterr()
        arguments = ["--store", "store", "commit", "ft.safetensors", "--base", "base", "--name", "ft", "--gate", gate]
        return Ran(run([*arguments, *more]), *self._capfd.readouterr())

    def keys(self, *prefixes: str) -> set[str]:
        return {entry.key for prefix in prefixes or ("",) for entry in self.store.storage.list(prefix)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Place:
    base = weights(1)
    tuned = {name: base[name] + change for name, change in weights(2, 0.01).items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file({**tuned, "new.weight": weights(3)["dense.weight"][:8]}, tmp_path / "ft.safetensors")
    (tmp_path / "measure.py").write_text(MEASURE)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    Store.init("store").import_base("base.safetensors", name="base")
    return Place(tmp_path, capfd)


def at_most(threshold: float) -> str:
    return f"{shlex.quote(sys.executable)} measure.py {{path}} {threshold}"


READABLE = "test -s {path}"
"""Passes whatever it is shown, and starts at once."""


def is_tuned(path: Path) -> bool:
    return sorted(load_file(path)) == sorted([*SHAPES, "new.weight"])


@pytest.mark.parametrize("threshold", [0.3, 0.02, 0.0005])
def test_the_most_that_passes_is_lost(place: Place, threshold: float) -> None:
    """The next larger loss that was tried failed, and is at most 3 % smaller."""
    ran = place.commit(at_most(threshold), "--json")
    assert ran.code == 0, ran.err
    done = json.loads(ran.out)
    assert 0.75 * threshold < done["relative_error"] <= threshold
    assert done["gate_runs"] == ran.err.count("gate, run ") == ran.err.count("measured ") <= 12
    record = place.store.commit_record(done["commit"]).quality
    assert (record["gate"], record["gate_runs"]) == (at_most(threshold), str(done["gate_runs"]))
    assert "max_error" not in record
    place.store.checkout("ft", "out.safetensors")
    assert subprocess.run(at_most(threshold).format(path="out.safetensors"), shell=True, check=False).returncode == 0


def trials(place: Place, passes: Callable[[Path], bool], **asked: Any) -> tuple[list[Trial], Any]:
    seen: list[Trial] = []
    quality = Quality(gate=Gate("test", passes, seen.append), **asked)
    return seen, place.store.commit("ft.safetensors", base="base", name="ft", quality=quality)


def lost(path: Path) -> float:
    tuned, base, found = load_file("ft.safetensors"), load_file("base.safetensors"), load_file(path)
    squares = [[float(((each[key] - tuned[key]) ** 2).sum()) for key in base] for each in (found, base)]
    return sum(squares[0]) / sum(squares[1])


def test_runs_are_reported_as_they_were(place: Place) -> None:
    measured: list[float] = []

    def passes(path: Path) -> bool:
        assert is_tuned(path)
        measured.append(lost(path))
        return measured[-1] < 0.1

    seen, done = trials(place, passes)
    assert [trial.number for trial in seen] == list(range(1, done.gate_runs + 1))
    assert [trial.passed for trial in seen] == [error < 0.1 for error in measured]
    assert [trial.relative_error for trial in seen] == pytest.approx(measured, rel=1e-4, abs=1e-12)
    assert seen[0] == (1, None, 0.0, True)
    assert done.relative_error == max(trial.relative_error for trial in seen if trial.passed)
    chosen = min(trial.bytes for trial in seen if trial.passed and trial.bytes)
    larger = max(trial.bytes for trial in seen if not trial.passed and trial.bytes)
    assert larger < chosen < 1.03 * larger
    assert chosen < done.stored_bytes < chosen + 2500  # records


def test_one_decomposition(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[torch.dtype] = []

    def count(*arguments: Any, **options: Any) -> Any:
        counted.append(options["precision"])
        return profile(*arguments, **options)

    profile = residual_encoder.profile
    monkeypatch.setattr(residual_encoder, "profile", count)
    _, done = trials(place, lambda path: lost(path) < 0.02)
    assert done.gate_runs > 3
    assert counted == [torch.float64] * len(SHAPES)  # however little may be lost in the end


def test_a_gate_that_lets_everything_through_keeps_half(place: Place) -> None:
    seen, done = trials(place, lambda _: True)
    assert 0.45 < done.relative_error <= 0.5
    assert all(trial.relative_error <= 0.5 for trial in seen)


def test_of_a_gate_that_jumps_the_smallest_that_passed_is_taken(place: Place) -> None:
    answers = iter([True, True, False, False, True, True, True, False, True, True, True, True])
    seen, done = trials(place, lambda _: next(answers))
    chosen = min((trial.bytes, trial.relative_error) for trial in seen if trial.passed and trial.bytes)
    assert done.relative_error == chosen[1]


def test_the_same_candidate_is_tried_once(place: Place) -> None:
    """Twice the base is one number a tensor, at any step."""
    tuned = {name: 2 * tensor for name, tensor in weights(1).items()}
    save_file(tuned, "ft.safetensors")
    seen, done = trials(place, lambda _: True)
    assert done.gate_runs == len({trial.bytes for trial in seen}) == len(seen) < 8
    assert done.relative_error < 0.5


@pytest.fixture
def plain(place: Place) -> set[str]:
    """Keys of a store in which the same was committed at the error that the gate finds."""
    other = Store.init("plain")
    other.import_base("base.safetensors", name="base")
    other.commit("ft.safetensors", base="base", name="ft")
    return {entry.key for entry in other.storage.list()}


def test_candidates_never_reach_the_store(place: Place, plain: set[str]) -> None:
    before = place.keys("objects/", "refs/")

    def passes(path: Path) -> bool:
        assert place.keys("objects/", "refs/") == before
        assert is_tuned(path)
        return lost(path) < 0.02

    trials(place, passes)
    assert len(place.keys()) == len(plain)
    found = place.store.fsck(deep=True)
    assert (found.clean, found.unreachable) == (True, ())
    assert list((place.directory / "scratch").iterdir()) == []


def test_what_it_added_is_what_it_says(place: Place) -> None:
    def stored() -> int:
        return sum(entry.size for kind in ("objects/", "refs/") for entry in place.store.storage.list(kind))

    before = stored()
    _, done = trials(place, lambda path: lost(path) < 0.02)
    assert done.stored_bytes == stored() - before


def test_an_original_that_fails_is_refused_and_nothing_is_stored(place: Place) -> None:
    before = place.keys()
    ran = place.commit(at_most(-1))
    assert ran.code == GateError.exit_code == 1
    assert "error: The original does not pass" in ran.err
    assert place.keys() == before


def test_where_no_loss_passes_nothing_is_stored(place: Place) -> None:
    before = place.keys()
    ran = place.commit(at_most(0))
    assert ran.code == 1
    assert "--exact" in ran.err
    assert 6 < ran.err.count("gate, run ") + 1 <= 12
    assert place.keys() == before
    assert list((place.directory / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("there-is-no-such-command {path}", "cannot be run (exit code 127)"),
        ("./measure.py {path}", "cannot be run (exit code 126)"),
        ("exit 255; : {path}", "exited unexpectedly (exit code 255)"),
        ("kill -9 $$; : {path}", "was ended by signal 9"),
        ("sh -c 'kill -15 $$' {path}; exit $?", "was ended by signal 15"),
    ],
)
def test_commands_that_give_no_answer(place: Place, command: str, reason: str) -> None:
    before = place.keys()
    ran = place.commit(command)
    assert ran.code == 2
    assert reason in ran.err
    assert place.keys() == before


@pytest.mark.parametrize("code", [1, 2, 125])
def test_codes_that_mean_no(place: Place, code: int) -> None:
    assert place.commit(f"exit {code}; : {{path}}").code == 1


@pytest.mark.parametrize(
    "options",
    [["--budget", "20k"], ["--max-error", "0.1"], ["--exact-only"], ["--codec", "ere"]],
    ids=lambda options: options[0],
)
def test_what_also_decides_the_quality_is_refused(place: Place, options: list[str]) -> None:
    ran = place.commit(at_most(0.1), *options)
    assert ran.code == 2
    assert "gate" in ran.err
    assert "run 1" not in ran.err


def test_a_command_without_a_path_is_refused(place: Place) -> None:
    ran = place.commit("python eval.py ft.safetensors")
    assert ran.code == 2
    assert "{path}" in ran.err


def test_names_are_quoted(place: Place) -> None:
    name = "ft (2).safetensors"
    (place.directory / "ft.safetensors").rename(name)
    (place.directory / "ft.safetensors").symlink_to(name)
    arguments = ["--store", "store", "commit", name, "--base", "base", "--name", "ft"]
    assert run([*arguments, "--gate", READABLE]) == 0


def test_json_is_alone_on_standard_output(place: Place) -> None:
    ran = place.commit(f"echo loud; {READABLE}", "--json", "--quiet")
    assert json.loads(ran.out)["ref"] == "ft"
    assert ran.err.count("loud\n") > 3
    assert "gate, run" not in ran.err


def test_the_same_again_is_unchanged(place: Place) -> None:
    first = json.loads(place.commit(READABLE, "--json").out)
    again = place.commit(READABLE, "--json")
    assert "gate, run" not in again.err
    assert json.loads(again.out)["commit"] == first["commit"]
    assert json.loads(again.out)["unchanged"]
    other = json.loads(place.commit(at_most(0.02), "--json").out)
    assert not other["unchanged"]
    assert other["parents"] == [first["commit"]]
    assert other["gate_runs"] > 1


def test_it_is_shown(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    ran = place.commit(READABLE)
    assert "the gate was run" in ran.out
    assert run(["--store", "store", "show", "ft"]) == 0
    shown = capfd.readouterr().out
    assert f"what passes `{READABLE}` (runs: " in shown


def test_the_lossy_part_of_an_exact_commit_has_to_pass(place: Place) -> None:
    def passes(path: Path) -> bool:
        return lost(path) < 0.02

    _, done = trials(place, passes, exact=True)
    assert done.exact
    place.store.checkout("ft", "whole.safetensors")
    place.store.checkout("ft", "front.safetensors", lossy=True)
    tuned, whole = load_file("ft.safetensors"), load_file("whole.safetensors")
    assert all(torch.equal(whole[name], tensor) for name, tensor in tuned.items())
    assert 0.015 < lost(Path("front.safetensors")) < 0.02


def test_where_nothing_is_lost_only_the_original_is_tried(place: Place) -> None:
    save_file({**weights(1), "new.weight": torch.ones(4)}, "ft.safetensors")
    _, done = trials(place, lambda _: True)
    assert (done.gate_runs, done.relative_error) == (1, 0)


def test_a_base_that_is_not_there_is_noticed_before_the_gate_runs(place: Place) -> None:
    gate = Gate("never asked", lambda _: pytest.fail("it was asked"))
    with pytest.raises(NotFoundError):
        place.store.commit("ft.safetensors", base="nowhere", quality=Quality(gate=gate))


def test_an_adapter_is_refused(place: Place) -> None:
    adapter = place.directory / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    factors = {"lora_A": torch.ones(2, 200), "lora_B": torch.ones(300, 2)}
    save_file(
        {f"base_model.model.dense.{k}.weight": t for k, t in factors.items()}, adapter / "adapter_model.safetensors"
    )
    gate = Gate("never asked", lambda _: pytest.fail("it was asked"))
    with pytest.raises(UsageError, match="gate"):
        place.store.commit("adapter", base="base", quality=Quality(gate=gate))
    assert place.store.commit("adapter", base="base").tensors == {"factors": 1}


def test_an_exception_of_the_gate_ends_the_commit(place: Place) -> None:
    before = place.keys()

    def passes(path: Path) -> bool:
        if lost(path) > 0:
            raise ZeroDivisionError
        return True

    with pytest.raises(ZeroDivisionError):
        trials(place, passes)
    assert place.keys() == before
    assert list((place.directory / "scratch").iterdir()) == []


def test_the_gate_has_all_threads(place: Place) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen: set[int] = set()
        trials(place, lambda _: not seen.add(torch.get_num_threads()))
        assert seen == {3}
    finally:
        torch.set_num_threads(before)


def test_a_directory_is_as_checkout_writes_it(place: Place) -> None:
    base = tiny.base_weights()
    tiny.write_model(place.directory / "model", base)
    tiny.write_model(place.directory / "tuned", tiny.tuned(base, 1))
    listed: set[tuple[str, ...]] = set()

    def passes(path: Path) -> bool:
        with open_checkpoint(path):
            listed.add(tuple(sorted(str(file.relative_to(path)) for file in path.rglob("*"))))
        return True

    quality = Quality(gate=Gate("opens", passes))
    place.store.commit("tuned", base="model", quality=quality)
    place.store.checkout("tuned", "out")
    written = {str(file.relative_to("out")) for file in Path("out").rglob("*")} - {marker.NAME}
    assert listed == {tuple(sorted(written))}


def test_what_the_command_started_ends_with_it(place: Place) -> None:
    arguments = ["--store", "store", "commit", "ft.safetensors", "--base", "base", "--name", "ft", "--gate"]
    assert run([*arguments, "sleep 1000 & echo $! >> started; : {path}"]) == 0
    for number in (place.directory / "started").read_text().split():
        with pytest.raises(ProcessLookupError):
            until_gone(int(number))


def until_gone(process: int) -> None:
    for _ in range(200):
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        if state.exists() and state.read_text().rsplit(") ", 1)[1].startswith("Z"):
            raise ProcessLookupError  # ended, and not waited for by whoever inherited it
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_and_ends_the_command(place: Place, number: signal.Signals) -> None:
    before = place.keys()
    command = "test -e candidate || { touch candidate; exit 0; }; touch running; sleep 1000; : {path}"
    arguments = ["--store", "store", "commit", "ft.safetensors", "--base", "base", "--name", "ft", "--gate", command]
    process = subprocess.Popen(
        [sys.executable, "-m", "erestore", *arguments],
        env={**os.environ, "TMPDIR": str(place.directory / "scratch"), "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
    )
    until((place.directory / "running").exists)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)  # ends when nobody holds standard error any more, the command included
    assert process.returncode == 128 + number, error
    assert list((place.directory / "scratch").iterdir()) == []
    assert place.keys() == before
    assert place.store.fsck(read_data=True).clean


def test_what_asks_at_the_terminal_fails_and_does_not_hang(place: Place) -> None:
    """In the background of a terminal it would be stopped, and waited for without end."""
    command = "read answer < /dev/tty && exit 0; touch asked; exit 0; : {path}"
    program = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    arguments = ["--store", "store", "commit", "ft.safetensors", "--base", "base", "--name", "ft", "--gate", command]
    ran = subprocess.run(
        [sys.executable, "-c", program, sys.executable, "-m", "erestore", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert (place.directory / "asked").exists()


def until(holds: Callable[[], bool]) -> None:
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.02)
    pytest.fail("it never came true")
