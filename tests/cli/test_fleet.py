"""``similar``, ``identify`` and ``blame`` on the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny
from commands import Here

from erestore.api import Store
from erestore.cli.fleet import MATRIX


@pytest.fixture(scope="module")
def prepared_fleet(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = shutil.copytree(prepared, tmp_path_factory.mktemp("fleet") / "work")
    tiny.write_model(directory / "one", tiny.tuned(tiny.base_weights(), 5))
    Store.open(directory / ".erestore").commit(directory / "one", base="base")
    return directory


@pytest.fixture
def work(prepared_fleet: Path, empty: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """With `one` beside `ft` and `more`; caches in a folder of the test's own."""
    monkeypatch.setenv("ERESTORE_CACHE_DIRECTORY", str(empty.directory / "cache"))
    return empty.refill(prepared_fleet)


def test_similar_in_words(work: Here) -> None:
    ran = work.run("similar")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "3 variants of base"
    assert lines[2].split() == ["norm", "1", "2", "3"]
    assert [line.split()[1] for line in lines[3:6]] == ["ft", "more", "one"]
    assert all(line.split()[2 + place] == "1.000" for place, line in enumerate(lines[3:6], 1))
    assert lines[6] == "Stored in full, not compared: tensors of ft, more, one."
    assert [path.parent.name for path in (work.directory / "cache").rglob("*") if path.is_file()] == ["products"]
    assert work.run("similar").out == ran.out


def test_similar_in_json(work: Here) -> None:
    found = work.json("similar", "ft", "more", "one - ft", "1.0*ft")
    assert found["names"] == ["ft", "more", "one - ft", "1.0*ft"]
    assert [len(row) for row in found["matrix"]] == [4] * 4
    assert found["matrix"][0][0] == pytest.approx(1)
    assert found["matrix"][0][1] == found["matrix"][1][0]
    assert found["gram"][0][0] == pytest.approx(found["norms"][0] ** 2)
    assert found["duplicates"] == [["ft", "1.0*ft"]]
    assert {"base", "outliers", "whole", "overlaps"} <= set(found)
    assert "duplicates: ft, 1.0*ft" in work.run("similar", "ft", "1.0*ft").out
    assert work.json("similar", "base", "ft")["matrix"][0] == [None, None]
    assert re.search(r"base +0 +- +-", work.run("similar", "base", "ft").out)


def test_similar_tensor_by_tensor(work: Here) -> None:
    (pair,) = work.json("similar", "ft", "one", "--angles")["overlaps"]
    assert (pair["a"], pair["b"]) == ("ft", "one")
    (tensor,) = [each for each in pair["tensors"] if each["name"] == "dense.weight"]
    assert len(tensor["row_angles"]) == min(tensor["rank_a"], tensor["rank_b"])
    out = work.run("similar", "ft", "one", "--angles").out
    assert "ft and one, tensor by tensor" in out
    row = next(line for line in out.splitlines() if line.startswith("dense.weight"))
    assert f"{tensor['rank_a']}/{tensor['rank_b']}" in row
    assert f"{100 * tensor['a_in_b']:.1f} %" in row


def test_many_are_listed_by_pairs(work: Here) -> None:
    names = ["ft", *(f"{number}*ft + one" for number in range(MATRIX))]
    out = work.run("similar", *names).out
    lines = out.splitlines()
    assert lines[2].split() == ["cosine", "variant", "variant"]
    cosines = [float(line.split()[0]) for line in lines[3:13]]
    assert cosines == sorted(cosines, reverse=True)
    assert lines[13] == "The 10 most similar pairs; --json has all."


def test_identify(work: Here) -> None:
    ran = work.run("identify", "one")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "one is nearest to one"
    assert lines[1].startswith("base base: 5 tensors in common, ")
    assert [line.split()[0] for line in lines[4:]] == ["one", "base", "ft", "more"]
    found = work.json("identify", "one")
    assert (found["base"], found["parent"]["name"]) == ("base", "one")
    assert [near["name"] for near in found["nearest"]] == ["one", "base", "ft", "more"]
    assert found["nearest"][1]["cosine"] is None
    assert work.run("identify", "base").out.startswith("base is base\n")


def test_blame(work: Here) -> None:
    ran = work.run("blame", "more", "dense.weight")
    assert (ran.code, ran.err) == (0, "")
    found = work.json("blame", "more", "dense.weight")
    assert sum(commit["share"] for commit in found["commits"]) == pytest.approx(1)
    assert {tuple(commit["refs"]) for commit in found["commits"]} == {("more",), ("ft", "v1")}
    lines = ran.out.splitlines()
    assert lines[0] == f"dense.weight of more: {found['norm']:.4g} from base"
    assert [line.split()[0] for line in lines[3:]] == [f"{100 * each['share']:.1f}" for each in found["commits"]]
    assert all(each["commit"][:12] in line for each, line in zip(found["commits"], lines[3:], strict=True))
    assert work.run("blame", "base", "dense.weight").out.splitlines()[1] == "No commit changed it."


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("similar", "ft", "nothing"), 3, "no revision 'nothing'"),
        (("similar", "ft +"), 2, "not an expression"),
        (("similar", "--angles"), 2, "Name two or more"),
        (("similar", "ft", "--angles"), 2, "Name two or more"),
        (("similar", "ft", "--base", "base"), 2, "Leave one of the two out"),
        (("similar", "--base", "ft"), 3, "no base 'ft'"),
        (("identify", "nothing"), 3, "no checkpoint"),
        (("identify", "text.txt"), 9, "not a checkpoint"),
        (("identify", "other"), 9, "fits no base"),
        (("identify",), 2, "PATH"),
        (("blame", "ft", "nothing"), 3, "no tensor 'nothing'"),
        (("blame", "nobody", "dense.weight"), 3, "no revision 'nobody'"),
        (("blame", "ft", "head.weight"), 2, "in full"),
        (("blame", "ft", "position_ids"), 2, "integers"),
        (("blame", "ft"), 2, "TENSOR"),
    ],
)
def test_bad_input_gets_a_sentence(work: Here, arguments: tuple[str, ...], code: int, words: str) -> None:
    Path("text.txt").write_text("no checkpoint")
    tiny.write_model(work.directory / "other", {"x.weight": tiny.base_weights()["dense.bias"].reshape(4, 8)})
    ran = work.run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert "hint:" in ran.err
    assert "Traceback" not in ran.err


def test_bases_do_not_mix(work: Here) -> None:
    assert work.run("import", "more", "--name", "second").code == 0
    assert work.run("commit", "one", "--base", "second", "--name", "foreign").code == 0
    ran = work.run("similar")
    assert (ran.code, ran.out) == (5, "")
    assert "2 bases" in ran.err
    assert "--base" in ran.err
    assert work.json("similar", "--base", "second")["names"] == ["foreign"]
    named = work.run("similar", "ft", "foreign")
    assert (named.code, named.out) == (5, "")
    as_data = work.run("similar", "--json")
    assert as_data.code == 5
    conflicts = json.loads(as_data.out)["conflicts"]
    assert [conflict["kind"] for conflict in conflicts] == ["base", "base"]
    assert ["foreign"] in [conflict["operands"] for conflict in conflicts]
    assert "2 bases" in as_data.err
    assert json.loads(work.run("identify", "one", "--json").out)["parent"]["base"] in ("base", "second")


def test_similar_and_blame_import_no_torch(work: Here) -> None:
    from commands import python

    program = (
        "import sys\nfrom erestore.cli.main import run\n"
        "print(run(['similar', '--json']), run(['blame', 'ft', 'dense.weight']), 'torch' in sys.modules, file=sys.stderr)"
    )
    ran = python("-c", program, cwd=work.directory)
    assert ran.stderr.splitlines()[-1] == "0 0 False", ran.stderr


def test_overlap_with_ancestors(work: Here) -> None:
    (found,) = work.json("show", "more", "--overlap")["overlaps"]
    parent = work.json("log", "ft", "-n", "1")[0]["commit"]
    assert found["commit"] == parent
    said = f"{100 * found['share']:.1f} % in"
    shown = work.run("show", "more", "--overlap")
    assert (shown.code, shown.err) == (0, "")
    assert f"Overlap with an ancestor: {said} ({parent[:12]}), cosine {found['cosine']:.3f}" in shown.out
    assert re.search(r"dense\.weight +\d+\.\d % +-?\d\.\d{3}", shown.out)
    (entry,) = work.json("log", "more", "-n", "1", "--overlap")
    assert entry["overlaps"][0]["share"] == pytest.approx(found["share"])
    assert f"Over:   {said} ft ({parent[:12]})" in work.run("log", "--overlap").out
    assert f"over {100 * found['share']:.1f} % of" in work.run("log", "--overlap", "--oneline").out
    assert work.json("show", "more")["overlaps"] is None
    assert "Over" not in work.run("log").out
