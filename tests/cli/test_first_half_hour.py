"""What a newcomer does wrong in a first half hour, and what is said then."""

from __future__ import annotations

import re

import pytest
import tiny
import torch
from commands import Here

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import UsageError
from erestore.report.words import coefficient_text


def test_a_name_that_exists_is_a_new_version_and_says_so(here: Here) -> None:
    was = here.json("show", "ft")["commit"]
    ran = here.run("commit", "more", "--name", "ft")
    assert f"  new version of ft (was {was[:12]})" in ran.out.splitlines()
    assert here.json("commit", "ft", "--name", "other", "--base", "base")["previous"] is None
    assert here.json("commit", "ft", "--name", "ft")["previous"] == here.json("show", "ft~1")["commit"]


def test_new_refuses_a_name_that_exists(here: Here) -> None:
    ran = here.run("commit", "more", "--name", "ft", "--new")
    assert (ran.code, "There is a branch 'ft' already" in ran.err) == (5, True)
    assert here.run("commit", "more", "--name", "fresh", "--base", "base", "--new").code == 0
    assert here.run("undo").code == 0  # a deleted name is free again
    assert here.run("commit", "more", "--name", "fresh", "--base", "base", "--new").code == 0


def test_a_base_that_most_tensors_do_not_match_is_doubted(here: Here) -> None:
    weights = {name: torch.randn(9, 7) for name in ("a", "b", "c")} | {"embedding.weight": torch.randn(64, 32)}
    tiny.write_model(here.directory / "wrong", weights)
    ran = here.run("commit", "wrong", "--base", "base")
    assert ran.code == 0, ran.err
    assert "note: Most tensors are not of the base 'base': 3 have no match there" in ran.err
    assert "Most tensors" not in here.run("commit", "ft", "--name", "again", "--base", "base").err


def test_a_base_without_a_name_goes_by_an_oid_that_is_a_revision(here: Here) -> None:
    ran = here.run("branch", "-d", "base")
    (again,) = re.findall(r"`erestore (branch base [0-9a-f]{12})` names it again", ran.err)
    oid = again.split()[-1]
    assert {row["base"] for row in here.json("branch")} == {oid}
    assert here.json("show", oid)["edge"] == "imported"
    assert here.json("show", "ft")["base"] == oid
    # It is the only base still, and may be named.
    assert here.json("commit", "ft", "--name", "b")["base"] == oid
    assert here.json("commit", "ft", "--name", "c", "--base", oid)["base"] == oid
    assert here.json("similar", "--base", oid)["base"] == oid
    assert here.run(*again.split()).code == 0
    assert here.json("show", "ft")["base"] == "base"


def test_a_base_without_a_name_counts_beside_another(here: Here) -> None:
    assert here.run("import", "more", "--name", "other").code == 0
    here.run("branch", "-d", "base")
    ran = here.run("commit", "ft", "--name", "b")
    assert ran.code == 2
    assert re.search(r"the store has 2: [0-9a-f]{12}, other\.", ran.err)
    here.run("branch", "-d", "ft", "more")
    here.run("tag", "-d", "v1")
    assert here.json("commit", "ft", "--name", "b")["base"] == "other"  # nothing uses the first any more


def test_branch_knows_the_bound_that_log_knows(here: Here) -> None:
    here.json("merge", "ft", "more", "--name", "both")
    (entry,) = here.json("log", "both", "-n", "1")
    (row,) = [row for row in here.json("branch") if row["name"] == "both"]
    assert (row["relative_error"], row["error_bound"]) == (entry["relative_error"], entry["error_bound"])
    assert "not recorded" not in here.run("branch").out


def test_variants_of_two_bases_are_named_without_an_empty_subject(here: Here) -> None:
    here.run("import", "more", "--name", "other")
    here.run("commit", "ft", "--name", "far", "--base", "other")
    ran = here.run("similar")
    assert ran.code == 5
    assert "conflict: of the base other (far)" in ran.err.splitlines()
    assert "`erestore similar --base base`" in ran.err


@pytest.mark.parametrize("kind", ["branch", "tag"])
def test_a_name_needs_a_revision(here: Here, kind: str) -> None:
    ran = here.run(kind, "x")
    assert (ran.code, "Missing REVISION" in ran.err) == (2, True)
    assert "[NAME REVISION]" in here.run(kind, "--help").out


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (("tag", "ft", "v2"), "tag v2 ft"),
        (("branch", "ft", "best"), "branch best ft"),
        (("checkout", "out", "ft"), "checkout ft out"),
        (("cat", "dense.bias", "ft"), "cat ft dense.bias"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_swapped_arguments_are_told_how_they_are_meant(here: Here, arguments: tuple[str, ...], right: str) -> None:
    ran = here.run(*arguments)
    assert (ran.code, f"comes first: `erestore {right}`." in ran.err) == (3, True)
    assert here.run(*right.split()).code == 0


def test_names_that_are_far_are_not_offered(here: Here) -> None:
    assert "Did you mean" not in here.run("show", "felt-tip").err
    assert "Did you mean more?" in here.run("show", "moer").err


def test_an_error_above_one_is_explained(here: Here) -> None:
    assert "0.01 loses 1 %" in here.run("commit", "ft", "--max-error", "2").err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1/3", "1/3"),
        ("-2", "-2"),
        ("5596018400492851/9007199254740992", "0.621283"),
        (0.1 + 0.2, "0.3"),
        ("nan", "nan"),
    ],
)
def test_coefficients_are_read_by_people(value: str | float, text: str) -> None:
    assert coefficient_text(value) == text


def test_commit_takes_the_options_of_the_command(here: Here) -> None:
    from erestore.api import Store

    store = Store.open(here.directory / ".erestore")
    assert store.commit("ft", name="b", base="base", exact=True).exact
    with pytest.raises(UsageError, match="both decide the quality"):
        store.commit("ft", name="b", quality=Quality(), max_error=0.1)


def test_gc_says_what_the_reflog_keeps_and_until_when(here: Here) -> None:
    assert here.json("gc")["reflog"] == []
    here.run("branch", "-d", "more")
    ran = here.run("gc")
    assert re.search(r"former commits for undo: more \(deleted\) until \d{4}-\d\d-\d\d \d\d:\d\d\.", ran.out)
    (kept,) = here.json("gc", "--dry-run")["reflog"]
    assert (kept["name"], kept["deleted"]) == ("more", True)
    assert here.json("gc", "--reflog-days", "0", "--grace-days", "0")["reflog"] == []


def test_several_folders_are_committed_in_one_command(here: Here) -> None:
    tiny.write_model(here.directory / "third", tiny.tuned(tiny.base_weights(), 8))
    receipts = here.json("commit", "ft", "third", "--base", "base")
    assert [receipt["ref"] for receipt in receipts] == ["ft", "third"]
    assert here.run("commit", "ft", "third", "--name", "x").code == 2
    ran = here.run("commit", "chosen-name", "third")
    assert (ran.code, "`erestore commit third --name chosen-name`" in ran.err) == (3, True)
    before = here.json("reflog")
    assert here.run("commit", "ft", "nowhere").code == 3  # nothing is committed before all paths are there
    assert here.json("reflog") == before


def test_a_base_is_named_after_its_folder(here: Here) -> None:
    tiny.write_model(here.directory / "mini", tiny.base_weights())
    assert here.json("import", "mini/")["ref"] == "mini"
    ran = here.run("import", "other-name", "mini")
    assert (ran.code, "`erestore import mini --name other-name`" in ran.err) == (3, True)
    assert here.run("import", "mini", "base").code == 2


def test_short_forms_of_git(here: Here) -> None:
    assert here.run("ls").out == here.run("branch").out
    assert here.run("log", "--oneline", "-2").out == here.run("log", "-n", "2", "--oneline").out
    assert here.run("reflog", "-1").out == here.run("reflog", "-n", "1").out
    assert here.run("help", "commit").out == here.run("commit", "--help").out
    assert here.run("help").out == here.run("--help").out
    assert here.run("help", "nothing").code == 2
    assert here.json("rm", "more")[0]["name"] == "more"


def test_du_of_names_says_what_deleting_them_frees(here: Here) -> None:
    ran = here.run("du", "ft")
    assert "Needed by more, v1." in ran.out
    assert "of which 0 B is reachable from no other name" in ran.out
    assert "frees nothing" in ran.out
    more = here.json("du", "more")["selection"]
    here.run("branch", "-d", "more")
    assert here.json("gc", "--grace-days", "0", "--reflog-days", "0")["freed_bytes"] == more["freed_bytes"] > 0
    assert here.run("du", "nothing").code == 3


def test_variants_are_sorted_and_filtered_by_metric(here: Here) -> None:
    here.run("commit", "ft", "--base", "base", "--name", "worse", "--metric", "accuracy=0.8")
    rows = here.json("branch", "--where", "accuracy>0.7", "--sort=-metric:accuracy")
    assert [(row["name"], row["metrics"]) for row in rows] == [
        ("more", {"accuracy": "0.9"}),
        ("worse", {"accuracy": "0.8"}),
    ]
    ran = here.run("branch", "--where", "accuracy>0.7", "--sort", "metric:accuracy")
    assert ["accuracy 0.8" in line for line in ran.out.splitlines()] == [True, False]
    assert "accuracy" not in here.run("branch").out
    assert "No branch matches" in here.run("branch", "--where", "accuracy>0.99").err
    assert here.run("branch", "x", "ft", "--sort", "name").code == 2
    # As --where takes a metric by its name alone, so does --sort; == is =, and a slip is told of.
    bare = here.json("branch", "--where", "accuracy>0.7", "--sort=-accuracy")
    assert [row["name"] for row in bare] == ["more", "worse"]
    assert [row["name"] for row in here.json("branch", "--where", "accuracy==0.8")] == ["worse"]
    ran = here.run("branch", "--sort", "acuracy")
    assert (ran.code, "Did you mean accuracy?" in ran.err) == (2, True)


def test_a_metric_that_is_new_is_recorded_although_the_files_are_there(here: Here) -> None:
    was = here.json("show", "ft")["commit"]
    assert "Nothing to commit" in here.run("commit", "ft").out
    done = here.json("commit", "ft", "--metric", "f1=0.7")
    assert (done["previous"], done["unchanged"]) == (was, False)
    assert here.json("show", "ft")["metrics"] == {"f1": "0.7"}
    assert here.json("commit", "ft", "--metric", "f1=0.7")["unchanged"]
    assert not here.json("commit", "ft", "--metric", "f1=0.8")["unchanged"]


def test_a_variant_is_not_named_as_the_base_that_it_would_import(here: Here) -> None:
    here.run("branch", "-d", "ft")
    before = here.run("branch").out
    for base in ("ft", "./ft", "ft/"):
        ran = here.run("commit", "ft", "--base", base)
        assert (ran.code, "would both be named 'ft'" in ran.err) == (5, True)
    assert here.run("branch").out == before


def test_a_result_under_a_name_that_exists_is_a_new_version_and_says_so(here: Here) -> None:
    was = here.json("show", "more")["commit"]
    ran = here.run("merge", "ft", "more", "--name", "more")
    assert f"  new version of more (was {was[:12]})" in ran.out.splitlines()
    assert here.json("merge", "ft", "more", "--name", "fresh")["previous"] is None
    assert here.json("revert", "ft", "--name", "fresh")["previous"] == here.json("show", "fresh~1")["commit"]


def test_an_expression_that_the_shell_took_apart_is_to_be_quoted(here: Here) -> None:
    for words in (("0.5*ft", "+", "0.5*more"), ("ft", "+", "more"), ("ft", "0.5*more")):
        ran = here.run("merge", *words, "--name", "m")
        assert (ran.code, f'`erestore merge "{" ".join(words)}" --name m`' in ran.err) == (2, True)
    ran = here.run("checkout", "ft + more")
    assert (ran.code, "`erestore checkout 'ft + more' DIRECTORY`" in ran.err) == (2, True)
    for words in (("checkout", "base+more-ft", "out"), ("merge", "base+more-ft", "--name", "m")):
        ran = here.run(*words)
        assert (ran.code, "between spaces: 'more - ft'" in ran.err) == (3, True)


def test_small_slips_get_hints_that_are_true(here: Here) -> None:
    assert "There are no commits yet" not in here.run("log", "-n", "0").err
    ran = here.run("--store", ".", "status")
    assert (ran.code, "--store .erestore" in ran.err) == (3, True)
    ran = here.run("verify", "ft", "nothing")
    assert (ran.code, "comes first" in ran.err) == (3, False)
    assert "comes first" in here.run("verify", "ft", here.directory / "more").err
    oid = here.json("show", "ft")["commit"]
    ran = here.run("du", oid[:8])
    assert (ran.code, "`erestore du ft`" in ran.err) == (3, True)
    assert "A tag needs a commit" in here.run("tag", "t", "ft + more").err
    assert repr(Store.open(".erestore")) == f"<Store at '{Store.open('.erestore').url}'>"


def test_undo_of_a_first_commit_names_the_commit(here: Here) -> None:
    here.run("branch", "-d", "ft", "more")
    (here.directory / ".erestore").rename(here.directory / "other")
    assert here.run("commit", "ft", "--base", "more").code == 0
    assert "adapted" in here.run("undo", "--dry-run").out


def test_protected_branches_get_new_versions_and_are_not_deleted(here: Here) -> None:
    assert "note: No branch matches 'release/*' yet." in here.run("config", "branch.protected", "ft,release/*").err
    assert here.run("commit", "more", "--name", "ft").code == 0
    for line in ("branch -d ft", "branch -m ft new", "undo", "merge more base --name ft"):
        ran = here.run(*line.split())
        assert (ran.code, "'ft' is protected" in ran.err) == (5, True), line
    (kept,) = [row for row in here.json("repack", "ft", "--dry-run")["kept"] if row["ref"] == "ft"]
    assert "protected" in kept["reason"]
    assert here.run("config", "branch.protected", "--unset").code == 0
    assert here.run("branch", "-d", "ft").code == 0
