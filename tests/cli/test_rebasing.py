"""``rebase``, ``flatten`` and ``bisect`` on the command line."""

from __future__ import annotations

import sys

import pytest
import tiny
from commands import Here


@pytest.fixture
def work(here: Here) -> Here:
    """With `newer`, another base."""
    base = tiny.base_weights()
    changed = {name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in base.items()}
    tiny.write_model(here.directory / "newer", changed)
    assert here.run("import", "newer", "--name", "newer").code == 0
    return here


def test_a_rebase_has_two_meanings(work: Here) -> None:
    ran = work.run("rebase", "ft", "--onto", "newer", "--name", "x")
    assert (ran.code, ran.out) == (2, "")
    assert "--preserve" in ran.err
    assert "--carry" in ran.err
    ran = work.run("rebase", "more", "--onto", "newer", "--preserve", "--name", "kept")
    assert ran.code == 0, ran.err
    assert "the weights on newer; exact" in ran.out
    found = work.json("rebase", "ft", "--onto", "newer", "--carry", "--name", "carried")
    assert (found["kept"], found["base"]) == ("change", "newer")
    assert "rebased" in work.run("log", "carried").out
    assert found["loses_exact"] == []
    ran = work.run("rebase", "more", "--onto", "newer", "--carry", "--name", "moved")
    assert (ran.code, "left out (more)" in ran.err) == (0, True)
    found = work.json("rebase", "more", "--onto", "newer", "--carry", "--name", "moved", "--max-error", "0.01")
    assert (found["exact"], found["loses_exact"]) == (False, ["more"])
    assert work.json("rebase", "more", "--onto", "newer", "--preserve", "--name", "kept")["loses_exact"] == []
    ran = work.run("rebase", "ft", "--onto", "newer", "--carry", "--preserve", "--name", "x")
    assert (ran.code, ran.out) == (2, "")
    assert "--carry and --preserve exclude each other" in ran.err


def test_flattening(work: Here) -> None:
    found = work.json("flatten", "more", "--name", "flat")
    assert (found["before"]["terms"], found["after"]["terms"], found["exact"]) == (2, 1, True)
    assert "Nothing to flatten" in work.run("flatten", "flat").out
    ran = work.run("flatten", "flat", "--name", "same")
    assert ran.out.startswith("[same ")
    assert "the value of flat, which has 1 residual" in ran.out
    assert work.json("flatten", "flat", "--name", "same")["unchanged"] is True
    ran = work.run("merge", "0.5*ft + 0.5*more", "--name", "half")
    assert ran.code == 0
    ran = work.run("flatten", "half")
    assert "2 residuals of" in ran.out
    assert "became 1 residual of" in ran.out
    assert work.run("flatten", "ft~1").code == 2
    assert work.run("flatten", "half", "--max-error", "2").code == 2


def test_bisecting(work: Here) -> None:
    tensors = tiny.tuned(tiny.base_weights(), 1)
    for number in range(4):
        tensors = dict(tensors, scale=tensors["scale"] + 1)
        tiny.write_model(work.directory / f"m{number}", tensors)
        parent = "ft" if number == 0 else f"m{number - 1}"
        assert work.run("commit", f"m{number}", "--parent", parent, "--exact").code == 0
    (work.directory / "check.py").write_text(
        "import sys\nfrom safetensors import safe_open\n"
        "with safe_open(sys.argv[1] + '/model.safetensors', 'np') as file:\n"
        "    sys.exit(float(file.get_tensor('scale')) > 4.2)\n"
    )
    command = f"{sys.executable} check.py {{path}}"
    ran = work.run("bisect", "ft", "m3", "--run", command)
    assert ran.code == 0, ran.err
    assert "is the first bad commit" in ran.out
    assert "bisect: " in ran.err
    found = work.run("bisect", "ft", "m3", "--run", command, "--json")
    assert work.json("show", "m2")["commit"] in found.out.partition("last_good")[0]
    for asked, code, words in (
        (("ft", "m3", "--run", "true"), 2, "{path}"),
        (("m3", "ft", "--run", command), 2, "not an ancestor"),
        (("ft", "nothing", "--run", command), 3, "nothing"),
        (("ft", "m0", "--run", command), 2, "passes"),
        (("ft", "m3", "--run", "exit 127 {path}"), 2, "test"),
    ):
        ran = work.run("bisect", *asked)
        assert (ran.code, ran.out) == (code, "")
        assert words in ran.err


@pytest.mark.parametrize("error", ["0", "2", "nan", "-1"])
@pytest.mark.parametrize(
    "verb",
    [
        ("merge", "ft", "more", "--strategy", "ties", "--name", "x"),
        ("flatten", "more", "--name", "x"),
        ("rebase", "more", "--onto", "newer", "--preserve", "--name", "x"),
    ],
)
def test_a_bad_error_gets_a_hint_that_fits_the_verb(work: Here, verb: tuple[str, ...], error: str) -> None:
    ran = work.run(*verb, "--max-error", error)
    assert (ran.code, ran.out) == (2, "")
    assert "is not between" in ran.err
    assert "--exact" not in ran.err
    hint = "0.01 loses 1 %" if float(error) > 1 else "such as 0.001"
    assert hint in ran.err
    said = work.run("commit", "ft", "--base", "base", "--max-error", error).err
    assert (hint if float(error) > 1 else "--exact") in said
