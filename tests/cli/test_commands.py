"""What commands do and say, in an order in which one meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import Here
from safetensors.torch import load_file

PROMISED = {
    ("import", "base", "--name", "again"): "commit ref stored_bytes",
    ("commit", "ft", "--name", "x", "--base", "base"): (
        "commit ref base parents stored_bytes original_bytes relative_error exact tensors"
    ),
    ("checkout", "ft", "out"): "commit path tensors bytes relative_error exact",
    ("checkout", "ft", "out", "--max-rank", "1"): (
        "commit path relative_error exact error_bound lossy residual_bytes residual_bytes_read"
    ),
    ("log",): "commit parents edge refs message time stored_bytes relative_error error_bound lossy_error",
    ("show", "ft"): ("commit parents edge base terms sections quality tensors relative_error error_bound lossy_error"),
    ("diff", "base", "ft"): "a b tensors summary",
    ("status",): "store bases variants tags commits objects stored_bytes last",
    ("branch",): "name commit base stored_bytes relative_error time",
    ("branch", "x", "ft"): "name before after operation",
    ("branch", "-m", "ft", "x"): "name before after operation",
    ("branch", "-d", "ft", "more"): "name before after operation variants",
    ("tag",): "name commit message time",
    ("tag", "v2", "ft"): "name before after operation",
    ("tag", "-d", "v1"): "name before after operation",
    ("reflog",): "ref selector commit previous operation undoes time message",
    ("undo",): "operation undone message refs time author dry_run",
    ("du",): "variants stored_bytes separate_bytes",
    ("gc",): "deleted_objects freed_bytes kept_objects dropped",
    ("fsck",): "checked corrupt missing unreachable",
    ("config",): "key value origin",
    ("config", "gc.grace_days"): "key value origin",
    ("config", "gc.grace_days", "3"): "key value origin",
    ("cat", "ft", "dense.bias"): "commit name dtype shape",
    ("init", "other"): "store id",
}


@pytest.mark.parametrize("arguments", PROMISED, ids=" ".join)
def test_json_holds_the_promised_fields(here: Here, arguments: tuple[str, ...]) -> None:
    found = here.json(*arguments)
    for each in found if isinstance(found, list) else [found]:
        assert set(PROMISED[arguments].split()) <= each.keys()


@pytest.mark.parametrize("arguments", PROMISED, ids=" ".join)
def test_quiet_is_silent_but_for_data(here: Here, arguments: tuple[str, ...]) -> None:
    ran = here.run(*arguments, "--quiet")
    assert (ran.code, ran.err) == (0, "")
    lists = arguments[0] in ("log", "show", "status", "reflog", "du", "cat", "diff")
    assert bool(ran.out) == (lists or arguments in (("branch",), ("tag",), ("config",), ("config", "gc.grace_days")))


def test_json_has_times_in_utc_and_numbers(here: Here) -> None:
    entries = here.json("log", "ft")
    assert [entry["edge"] for entry in entries] == ["adapted", "imported"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entries[0]["time"])
    assert 0 < entries[0]["relative_error"] <= 0.01
    assert entries[0]["refs"] == ["ft", "v1"]
    assert entries[0]["parents"] == [entries[1]["commit"]]


def test_commit_makes_a_store_and_says_what_it_did(empty: Here) -> None:
    ran = empty.run("commit", "ft/", "--base", "base/", "-m", "first")
    assert ran.code == 0, ran.err
    first, *rest = ran.out.splitlines()
    assert re.fullmatch(r"\[ft [0-9a-f]{12}\] [\d.]+ kB, \d+ % of [\d.]+ kB", first)
    assert re.fullmatch(r"  relative error 0\.\d+, on base", rest[0])
    assert rest[1].startswith("  tensors: ")
    assert "1 kept whole" in rest[1]
    assert f"Made a store in {empty.directory / '.erestore'}." in ran.err
    assert "note: The base 'base' was not in the store yet and was imported." in ran.err
    again = empty.run("commit", "more", "--parent", "ft", "--exact", "--metric", "f1=0.5", "--author", "Ada")
    assert "  exact, on base" in again.out
    assert again.err == ""
    shown = empty.json("show", "more")
    assert (shown["metrics"], shown["author"], shown["exact"]) == ({"f1": "0.5"}, "Ada", True)


def test_bytes_that_commits_say_they_add_are_all_the_store_takes(empty: Here) -> None:
    empty.run("init")
    before = disk(empty.directory)
    added = 0
    for arguments in (("import", "base", "--name", "base"), ("commit", "ft"), ("commit", "more", "--exact")):
        added += empty.json(*arguments)["stored_bytes"]
        assert disk(empty.directory) - before == added
    assert sum(entry["stored_bytes"] for entry in empty.json("log")) == added


def disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / ".erestore").rglob("*") if path.is_file())


def test_commit_refuses_before_it_makes_a_store(empty: Here) -> None:
    for arguments, code in (
        (("nothing", "--base", "base"), 3),
        (("ft",), 2),
        (("ft", "--base", "nothing/at-all"), 3),
        (("ft", "--base", "base", "--rank", "3"), 2),
        (("ft", "--base", "base", "--codec", "ere", "--bits", "99"), 2),
        (("ft", "--base", "base", "--codec", "ere", "--max-error", "0.1"), 2),
        (("ft", "--base", "base", "--metric", "f1"), 2),
    ):
        ran = empty.run("commit", *arguments)
        assert ran.code == code, ran.err
        assert ran.err.startswith("error: ")
        assert "\nhint: " in ran.err
    assert empty.run("import", "nothing", "--name", "base").code == 3
    assert not (empty.directory / ".erestore").exists()


def test_commit_does_not_make_a_store_that_was_named(empty: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    named = empty.run("--store", "elsewhere", "commit", "ft", "--base", "base")
    monkeypatch.setenv("ERESTORE_STORE", "elsewhere")
    variable = empty.run("commit", "ft", "--base", "base")
    for ran in (named, variable):
        assert ran.code == 3
        assert "There is no store at '" in ran.err
        assert "hint: `erestore init elsewhere` makes one" in ran.err
    assert sorted(path.name for path in empty.directory.iterdir()) == ["base", "ft", "more"]


def test_notes_on_what_is_odd(empty: Here) -> None:
    weights = tiny.weights_of(empty.directory / "ft")
    weights["dense.bias"][0] = float("nan")
    odd = tiny.write_model(empty.directory / "odd", {f"model.{name}": tensor for name, tensor in weights.items()})
    (odd / ".hidden").write_text("secret")
    ran = empty.run("commit", "odd", "--base", "base")
    assert "note: Names were matched to the base's by removing prefix 'model.'." in ran.err
    assert "note: 1 tensor kept whole because of NaN or infinity: model.dense.bias." in ran.err
    far = {name: -3 * tensor if tensor.is_floating_point() else tensor for name, tensor in tiny.base_weights().items()}
    tiny.write_model(empty.directory / "far", far)
    ran = empty.run("commit", "far", "--base", "base")
    assert "note: The base does not fit: the residual is 4 times as large as the base." in ran.err


def test_where_the_store_is(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    (here.directory / "deep" / "er").mkdir(parents=True)
    here.run("init", "other")
    monkeypatch.chdir(here.directory / "deep" / "er")
    store = str(here.directory / ".erestore")
    assert here.json("status")["store"] == store
    monkeypatch.setenv("ERESTORE_STORE", str(here.directory / "other"))
    assert here.json("status")["store"] == str(here.directory / "other")
    assert here.json("--store", store, "status")["store"] == store
    assert here.json("status", "--store", store)["store"] == store
    monkeypatch.setenv("ERESTORE_STORE", "")
    assert here.json("status")["store"] == store
    monkeypatch.delenv("ERESTORE_STORE")
    monkeypatch.chdir("/")
    ran = here.run("status")
    assert ran.code == 3
    assert "There is no store in / or any folder above it." in ran.err


def test_init_in_all_its_places(empty: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    assert empty.run("init").out == f"Made an empty store at {empty.directory / '.erestore'}.\n"
    assert empty.run("init").code == 5
    assert empty.run("init", "a").code == 0
    monkeypatch.setenv("ERESTORE_STORE", "b")
    assert empty.run("init").out == "Made an empty store at b.\n"
    assert empty.run("--store", "c", "init").out == "Made an empty store at c.\n"
    assert empty.run("init", "ft").code == 5


def test_checkout_gives_the_files_back(here: Here) -> None:
    ran = here.run("checkout", "more", "out")
    assert ran.code == 0, ran.err
    assert re.fullmatch(r"Wrote out: 6 tensors, [\d.]+ kB, exact\.\n", ran.out)
    original, written = (here.directory / name for name in ("more", "out"))
    assert tiny.same_tensors(tiny.weights_of(original), tiny.weights_of(written))
    assert (original / "notes.txt").read_bytes() == (written / "notes.txt").read_bytes()
    refused = here.run("checkout", "ft", "out")
    assert (refused.code, "--force" in refused.err) == (5, True)
    assert here.run("checkout", "ft", "out", "--force").code == 0
    assert here.run("checkout", "ft~1", "torch", "--format", "torch").code == 0
    assert list((here.directory / "torch").glob("*.bin"))


def test_cat(here: Here) -> None:
    ran = here.run("cat", "more", "scale")
    value = tiny.weights_of(here.directory / "more")["scale"]
    assert ran.out == f"scale F32 []\n{value}\n"
    ran = here.run("cat", "more", "dense.weight", "-o", "one.safetensors")
    assert ran.out == "Wrote dense.weight BF16 [32, 48] to one.safetensors.\n"
    written = load_file(here.directory / "one.safetensors")
    assert torch.equal(written["dense.weight"], tiny.weights_of(here.directory / "more")["dense.weight"])
    assert here.run("cat", "more", "scale", "-o", "one.safetensors").code == 5
    assert here.run("cat", "more", "scale", "-o", "one.npy").code == 0
    assert np.load(here.directory / "one.npy") == value.numpy()
    assert here.run("cat", "more", "scale", "-o", "one.csv").code == 2
    assert not (here.directory / "one.csv").exists()
    assert here.run("cat", "more", "scale", "-o", "one.safetensors", "--force").code == 0
    assert list(load_file(here.directory / "one.safetensors")) == ["scale"]
    assert "`erestore show more --all` lists its tensors" in here.run("cat", "more", "zzz").err
    assert "  dense.weight " in here.run("show", "more", "--all").out
    ran = here.run("cat", "more", "dense.weigth")
    assert (ran.code, "dense.weight" in ran.err) == (3, True)


def test_log(here: Here) -> None:
    text = here.run("log", "ft").out
    assert re.fullmatch(
        r"commit [0-9a-f]{12} \(ft, tag: v1\)\n"
        r"Edge:   adapted from base \([0-9a-f]{12}\)\n"
        r"Author: Ada\n"
        r"Date:   \w{3} \w{3} \d\d \d\d:\d\d:\d\d \d{4} [+-]\d{4}\n"
        r"Size:   [\d.]+ kB, \d+ % of [\d.]+ kB; relative error 0\.\d+\n"
        r"\n"
        r"    first\n"
        r"\n"
        r"    at length\n"
        r"\n"
        r"commit [0-9a-f]{12} \(base\)\n"
        r"Edge:   imported\n"
        r"Author: Ada\n"
        r"Date:   .*\n"
        r"Size:   [\d.]+ kB, \d+ % of [\d.]+ kB\n",
        text,
    )
    assert len(here.run("log", "-n", "1").out.splitlines()) == 5
    lines = here.run("log", "--oneline", "--graph").out.splitlines()
    assert [line[:2] for line in lines] == ["* ", "* ", "* "]
    assert lines[0].endswith("exact")
    assert lines[1].endswith(": first")


def test_show(here: Here) -> None:
    text = here.run("show", "more").out
    assert re.search(r"^Edge:     adapted from [0-9a-f]{12}$", text, re.MULTILINE)
    assert re.search(r"^Metrics:  accuracy 0.9$", text, re.MULTILINE)
    assert re.search(r"^Value = base \+ the sum of\n( +1 × .*\n){2}", text, re.MULTILINE)
    assert "inherited" in text
    assert re.search(r"^  exact remainder", text, re.MULTILINE)
    assert "position_ids" not in text
    assert "position_ids" in here.run("show", "more", "--all").out
    assert "Tensors by" not in here.run("show", "base").out


def test_diff(here: Here) -> None:
    found = here.json("diff", "base", "ft")
    names = {"name", "shape", "relative_norm", "effective_rank", "effective_rank_ratio", "energy"}
    assert all(names <= tensor.keys() for tensor in found["tensors"])
    text = here.run("diff", "ft").out
    assert text.startswith("ft differs from base in ")
    assert here.run("diff", "ft", "v1", "--exit-code").code == 0
    assert here.run("diff", "ft", "more", "--exit-code", "-n", "1").code == 1
    assert here.run("diff", "more", "more/", "--exit-code").out.startswith("more/ and more are identical")
    assert list((here.directory.parent / ".cache" / "erestore").iterdir())
    assert here.run("diff", "base").code == 2
    assert here.run("diff", "ft", "nothing").code == 3


def test_diff_by_kinds_and_in_order(here: Here) -> None:
    kinds = here.run("diff", "ft", "--stat", "--sort", "norm").out
    assert "\n\nkind " in kinds
    assert "\ndense.weight" not in kinds
    assert "\ndense " in kinds
    for sort in ("share", "norm", "erank", "energy", "name"):
        assert here.run("diff", "ft", "--sort", sort).code == here.run("diff", "ft", "--stat", "--sort", sort).code == 0
    assert here.json("diff", "ft", "--stat") == here.json("diff", "ft")


def test_diff_of_one_tensor(here: Here) -> None:
    ran = here.run("diff", "ft", "--tensor", "dense.weight")
    assert ran.code == 0
    assert ran.out.startswith("dense.weight [32×48] BF16: dense\nFrom base to ft it moved by ")
    assert "┤●" in ran.out
    assert "Stored as " in ran.out
    found = here.json("diff", "ft", "--tensor", "dense.weight")
    assert [tensor["name"] for tensor in found["tensors"]] == list(found["details"]) == ["dense.weight"]
    assert found["details"]["dense.weight"]["spectrum"]["change"][0] == 1
    assert here.run("diff", "ft", "ft/", "--tensor", "dense.weight").out.count("┤●")
    unknown = here.run("diff", "ft", "--tensor", "dense.wieght")
    assert unknown.code == 3
    assert unknown.err.startswith("error: There is no tensor 'dense.wieght'.\nhint: Did you mean dense.weight or ")
    pattern = here.run("diff", "ft", "--tensor", "*")  # is no name
    assert (pattern.code, pattern.err.splitlines()[0]) == (3, "error: There is no tensor '*'.")
    assert here.run("diff", "ft", "--tensors", "x*").err.startswith("error: No tensor matches 'x*'.")
    for others in (("--stat",), ("--all",), ("-n", "3"), ("--tensors", "*")):
        refused = here.run("diff", "ft", "--tensor", "scale", *others)
        assert (refused.code, refused.out) == (2, "")


def test_diff_of_expressions(here: Here) -> None:
    assert here.run("diff", "more", "0.5*more + 0.5*more", "--exit-code").code == 0
    found = here.json("diff", "0.5*more", "more")
    assert [found[side]["commit"] is None for side in "ab"] == [True, False]
    assert here.json("diff", "0.5*more", "more/")["b"]["path"] == "more"


def test_names(here: Here) -> None:
    assert here.run("branch", "best", "ft").out.startswith("Made best at ")
    assert here.run("branch", "best", "more").code == 5
    assert here.run("branch", "-f", "best", "more").out.startswith("Moved best from ")
    assert here.run("branch", "-m", "best", "champion").out == "Renamed best to champion.\n"
    assert [line.split()[0] for line in here.run("branch").out.splitlines()] == ["base", "champion", "ft", "more"]
    assert "`erestore undo` brings it back" in here.run("branch", "-d", "champion").out
    ran = here.run("branch", "-d", "base")
    assert "note: 3 variants of base remain (ft, more, v1)" in ran.err
    assert here.run("checkout", "more", "still").code == 0
    assert here.run("tag", "v2", "more", "-m", "better").out.endswith(" as v2.\n")
    assert here.run("tag", "v1", "more").code == 5
    assert [line.split()[0] for line in here.run("tag").out.splitlines()] == ["v1", "v2"]
    assert here.run("tag", "-d", "v1").code == 0
    for arguments in (
        ("branch", "x"),
        ("branch", "-d"),
        ("branch", "-m", "x"),
        ("branch", "-d", "-m", "x", "y"),
        ("tag", "x"),
        ("tag", "-d"),
        ("branch", "a", "b", "c"),
    ):
        assert here.run(*arguments).code == 2


def test_undo_and_reflog(here: Here) -> None:
    here.run("branch", "-d", "more")
    lines = here.run("reflog", "more").out.splitlines()
    assert lines[0].split() == ["operation", "time", "name", "move", "message"]
    assert lines[1].endswith("→ none  deleted")
    ran = here.run("undo")
    assert re.fullmatch(r"Undid operation [0-9a-f]{12} of [\d-]{10} [\d:]{5}: deleted", ran.out.splitlines()[0])
    assert re.search(r"^  more: back at [0-9a-f]{12}$", ran.out, re.MULTILINE)
    again = re.search(r"^To redo: `erestore (undo [0-9a-f]{12})`\.$", ran.out, re.MULTILINE)
    assert again
    assert re.search(r"^  more: gone \(was [0-9a-f]{12}\)$", here.run(*again[1].split()).out, re.MULTILINE)
    assert here.run("undo", "0000").code == 3


def test_undo_names_what_it_takes_back_and_tries_first(here: Here) -> None:
    assert here.run("commit", "ft", "--name", "bad name").code != 0  # a failed command is nothing to undo
    dry = here.run("undo", "--dry-run").out
    assert re.match(r"Would undo operation [0-9a-f]{12} of [\d-]{10} [\d:]{5}: ft\n", dry)  # the tag v1 of ft
    assert "  v1: would be gone (is " in dry
    assert "redo" not in dry
    found = here.json("undo", "--dry-run")
    assert (found["operation"], found["dry_run"], found["author"]) == (None, True, None)
    assert here.run("show", "v1").code == 0
    here.run("undo")
    here.run("undo")
    assert re.match(r"Undid operation [0-9a-f]{12} of [\d-]{10} [\d:]{5} by Ada: first\n", here.run("undo").out)


def test_status_du_gc_fsck(here: Here) -> None:
    assert "1 base, 2 variants, 1 tag, 3 commits" in here.run("status").out
    text = here.run("du").out
    assert text.splitlines()[0].split() == ["name", "kind", "own", "shared", "as", "a", "checkpoint"]
    assert re.search(r"separate checkpoints would take [\d.]+ kB( \([\d.]+ times as much\))?\.$", text)
    assert re.fullmatch(r"\d+ objects checked: no damage\.\n", here.run("fsck", "--deep").out)
    here.run("branch", "-d", "more")
    dry = here.run("gc", "--dry-run", "--grace-days", "0", "--reflog-days", "0").out
    assert re.search(r"^would delete [0-9a-f]{12}  commit  \d+ B$", dry, re.MULTILINE)
    assert re.search(r"^Would delete \d+ objects, [\d.]+ kB; \d+ kept\.$", dry, re.MULTILINE)
    assert here.run("gc").out.startswith("Deleted 0 objects")
    deleted = here.json("gc", "--grace-days", "0", "--reflog-days", "0")
    assert deleted["deleted_objects"] > 0
    assert here.run("undo").code == 3


def test_fsck_finds_damage(here: Here) -> None:
    (residual,) = (term["residual"] for term in here.json("show", "ft")["terms"])
    (here.directory / ".erestore" / "objects" / residual[:2] / residual[2:]).unlink()
    ran = here.run("fsck")
    assert ran.code == 4
    assert f"missing residual {residual}, needed by ft, more, v1\n" in ran.out
    assert ran.out.endswith("damage found.\n")
    ran = here.run("fsck", "--json")
    assert (ran.code, json.loads(ran.out)["missing"][0]["oid"]) == (4, residual)
    assert here.run("checkout", "ft", "out").code == 4


def test_config(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.run("config", "gc.grace_days").out == "14\n"
    assert here.run("config", "gc.grace_days", "3").out == "gc.grace_days is 3 now for this store.\n"
    assert here.run("config", "gc.grace_days", "5", "--user").out.endswith("for all your stores.\n")
    assert here.run("config", "gc.grace_days").out == "3\n"
    assert here.run("config", "gc.grace_days", "--unset").code == 0
    assert here.run("config", "gc.grace_days").out == "5\n"
    monkeypatch.setenv("ERESTORE_GC_GRACE_DAYS", "1")
    assert re.search(r"^gc.grace_days +1 +\(environment\)", here.run("config").out, re.MULTILINE)
    ran = here.run("config", "gc.grace", "1")
    assert (ran.code, "gc.grace_days" in ran.err) == (3, True)
    assert here.run("config", "--unset").code == 2
    assert here.run("config", "user.name", "Grace").code == 0
    assert here.json("commit", "ft", "--name", "x", "--base", "base")
    assert here.json("show", "x")["author"] == "Grace"
    monkeypatch.setenv("ERESTORE_COMMIT_MAX_ERROR", "0.3")
    here.run("commit", "ft", "--name", "y", "--base", "base")
    assert here.json("show", "y")["quality"]["max_error"] == "0.3"
    here.run("commit", "ft", "--name", "z", "--base", "base", "--max-error", "0.2")
    assert here.json("show", "z")["quality"]["max_error"] == "0.2"
    monkeypatch.chdir("/")
    assert here.run("config", "commit.max_error").out == "0.3\n"
    assert here.run("config", "commit.max_error", "0.1").code == 3


def test_what_others_wrote_cannot_steer_the_terminal(here: Here) -> None:
    here.run("commit", "ft", "--name", "x", "--base", "base", "-m", "\x1b[2Jgone\x07", "--author", "\x1b]0;title\x07")
    for arguments in (("log",), ("log", "--oneline"), ("show", "x"), ("branch",), ("reflog",), ("status",)):
        out = here.run(*arguments).out
        assert "\x1b" not in out
        assert "\x07" not in out


def test_an_empty_store_says_so(empty: Here) -> None:
    empty.run("init")
    for verb, message in (
        ("log", "There are no commits yet."),
        ("branch", "There are no branches yet."),
        ("tag", "There are no tags yet."),
        ("reflog", "There are no reflog entries yet."),
    ):
        ran = empty.run(verb)
        assert (ran.code, ran.out, ran.err) == (0, "", f"{message}\n")
        assert empty.json(verb) == []
    assert "The store takes 0 B." in empty.run("du").out


def test_checkout_without_the_exact_remainder(here: Here) -> None:
    assert re.search(r", exact\.\n$", here.run("checkout", "more", "--force").out)
    lossy = here.run("checkout", "more", "--lossy", "--force").out
    assert re.search(r", relative error 0\.\d+\.\n$", lossy)
    found = here.json("checkout", "more", "--lossy", "--force")
    assert (found["exact"], found["lossy"], found["error_bound"]) == (False, True, None)
    assert 0 < found["relative_error"] <= 0.01
    (entry,) = here.json("log", "more", "-n", "1")
    assert entry["lossy_error"] == here.json("show", "more")["lossy_error"] == found["relative_error"]
    text = f"exact, relative error {found['relative_error']:.2g} without the exact remainder"
    assert text in here.run("log", "more", "-n", "1").out
    assert text in here.run("show", "more").out
    tensor = here.run("cat", "more", "dense.weight", "--lossy")
    assert tensor.code == 0
    assert here.run("cat", "more", "dense.weight").out != tensor.out


def test_checkout_of_the_front(here: Here) -> None:
    ran = here.run("checkout", "ft", "front", "--max-rank", "1")
    assert re.search(r", relative error (at most )?[\d.]+\.\nRead [\d.]+ k?B of [\d.]+ k?B of residuals\.\n$", ran.out)
    none = here.json("checkout", "ft", "none", "--max-bytes", "0")
    assert none["residual_bytes_read"] == 0
    assert none["residual_bytes"] > 0
    assert (none["relative_error"], none["error_bound"]) == (None, 1.0)
    both = here.run("checkout", "ft", "both", "--max-rank", "1", "--max-bytes", "9")
    assert both.code == 2
    assert "exclude each other" in both.err
    assert here.run("checkout", "ft", "both", "--max-rank", "0").code == 2


def test_an_archive_has_no_lossy_part(here: Here) -> None:
    assert here.run("commit", "ft", "--base", "base", "--name", "archive", "--exact-only").code == 0
    for arguments in (
        ("checkout", "archive", "--lossy"),
        ("checkout", "archive", "--max-rank", "2"),
        ("cat", "archive", "dense.bias", "--lossy"),
        ("gc", "--drop-exact", "archive"),
    ):
        ran = here.run(*arguments)
        assert ran.code == 2
        assert "no lossy part" in ran.err
        assert "\nhint: " in ran.err


def test_gc_drops_an_exact_remainder(here: Here) -> None:
    would = here.run("gc", "--drop-exact", "more", "--dry-run").out
    assert re.match(
        r"Would drop the exact remainder of more \(of [0-9a-f]{12}\), [\d.]+ k?B; relative error 0\.", would
    )
    assert "after 90 days, when its reflog entry expires, and 14 days of grace; `erestore undo` takes it back" in would
    assert here.json("show", "more")["exact"]
    dropped = here.json("gc", "--drop-exact", "more")["dropped"]
    assert dropped["after"] == here.json("show", "more")["commit"]
    assert not here.json("show", "more")["exact"]
    here.run("undo")
    assert here.json("show", "more")["exact"]
    before = here.json("status")["stored_bytes"]
    now = here.run("gc", "--drop-exact", "more", "--reflog-days", "0", "--grace-days", "0").out
    assert now.startswith("Dropped the exact remainder of more")
    assert "frees that" not in now
    assert before - here.json("status")["stored_bytes"] > 0.9 * dropped["bytes"]
    assert here.run("fsck", "--deep").code == 0
    refused = here.run("gc", "--drop-exact", "ft")
    assert (refused.code, "has no exact remainder" in refused.err) == (2, True)


def test_show_lists_both_errors_of_every_tensor(here: Here) -> None:
    assert "linear error  rounded" in here.run("show", "ft", "--all").out
    tensors = here.json("show", "ft")["tensors"]
    assert any(tensor["linear_error"] for tensor in tensors)
