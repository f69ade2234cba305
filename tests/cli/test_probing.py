"""``erestore probe`` with a real model and tokenizer, made here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from commands import Here
from transformers import BertModel, PreTrainedTokenizerFast

from erestore.api import Store
from erestore.encoding.quality import Quality


@pytest.fixture(scope="module")
def prepared_tuned(prepared_words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = shutil.copytree(prepared_words, tmp_path_factory.mktemp("tuned") / "work")
    Store.open(directory / ".erestore").commit(directory / "tuned", base="words", quality=Quality(exact=True))
    return directory


@pytest.fixture
def tuned(prepared_tuned: Path, empty: Here) -> Here:
    """A variant that is kept exactly."""
    return empty.refill(prepared_tuned)


def test_by_default_noise_and_truncation_of_the_weights_alone(tuned: Here) -> None:
    found = tuned.json("probe", "tuned")
    assert (found["revision"], found["base"], found["features"]) == ("tuned", "words", None)
    assert (found["allocation"], found["stiefel"]) == (None, None)
    assert {point["part"] for point in found["perturb"]["points"]} == {"weights", "residual"}
    assert all(point["cosine"] is None for kind in ("perturb", "truncate") for point in found[kind]["points"])
    ran = tuned.run("probe", "tuned")
    assert (ran.code, ran.err) == (0, "")
    assert "cosine" not in ran.out
    assert re.search(r"^0\.05 .*0\.2\d\d %$", ran.out, re.MULTILINE)
    assert re.search(r"^100 % +0 % +0 %$", ran.out, re.MULTILINE)


def test_texts_are_what_a_model_answers_to(tuned: Here) -> None:
    """The numbers are those of transformers and the tokenizer, run by hand, padding left out."""
    found = tuned.json("probe", "tuned", "--perturb", "--sigmas", "0.3,0.1,0.3", "--data", "texts.jsonl")
    used, points = found["features"], found["perturb"]["points"]
    assert (used["kind"], used["inputs"]) == ("last hidden state", 2)
    assert [(point["part"], point["sigma"]) for point in points] == [
        ("weights", 0.3),
        ("weights", 0.1),
        ("residual", 0.3),
        ("residual", 0.1),
    ]
    assert points[0]["cosine"] < points[1]["cosine"] < points[2]["cosine"] < points[3]["cosine"] < 1
    tokens = PreTrainedTokenizerFast.from_pretrained("words")(
        ["the cat ran", "the dog sat"], return_tensors="pt", padding=True
    )
    states = []
    for name in ("tuned", "words"):
        model = BertModel.from_pretrained(name, add_pooling_layer=False).eval()
        with torch.no_grad():
            states.append(model(**tokens).last_hidden_state.double().mean(dim=1))
    expected = float(torch.nn.functional.cosine_similarity(*states).mean())
    assert used["base_cosine"] == pytest.approx(expected, abs=1e-6)


def test_a_tokenizer_of_its_own_goes_before_the_bases(tuned: Here) -> None:
    """One that knows other words by the same numbers."""
    shutil.copytree(tuned.directory / "tuned", tuned.directory / "german")
    for file in (tuned.directory / "words").glob("tokenizer*"):
        text = file.read_text("utf-8").replace('"cat"', '"Katze"').replace('"the"', '"die"').replace('"ran"', '"lief"')
        (tuned.directory / "german" / file.name).write_text(text, "utf-8")
    assert tuned.run("commit", "german", "--base", "words", "--exact").code == 0
    (tuned.directory / "german.txt").write_text("die Katze lief\n", "utf-8")
    (tuned.directory / "english.txt").write_text("the cat ran\n", "utf-8")
    arguments = ("--perturb", "--sigmas", "0.2", "--data")
    one = tuned.json("probe", "german", *arguments, "german.txt")
    other = tuned.json("probe", "tuned", *arguments, "english.txt")
    assert one["perturb"] == other["perturb"]
    assert one["features"] == other["features"]


def test_all_probes_in_words(tuned: Here) -> None:
    arguments = ("--perturb", "--truncate", "--allocation", "--stiefel", "--rank", "2", "--data", "texts.txt")
    ran = tuned.run("probe", "tuned", *arguments, "--samples", "4", "--alphas", "0,1")
    assert ran.code == 0
    assert "last hidden state, of 4 inputs" in ran.out
    for line in (
        "sigma  weights: lost",
        "rank   weights: lost",
        "ranks    bytes  layers without",
        "bits  bytes  projected",
    ):
        assert line in ran.out
    assert re.search(r"^uniform .*\d\.\d{5}$", ran.out, re.MULTILINE)
    assert re.search(r"^alpha 1 .*\d\.\d{5}$", ran.out, re.MULTILINE)


def test_a_page_holds_the_json(tuned: Here) -> None:
    ran = tuned.run("probe", "tuned", "--truncate", "--html", "out/probe.html", "--json")
    assert (ran.code, ran.err) == (0, "Wrote out/probe.html.\n")
    page = (tuned.directory / "out" / "probe.html").read_text("utf-8")
    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(held) == json.loads(ran.out)
    again = tuned.run("probe", "tuned", "--truncate", "--html", "out/probe.html")
    assert (again.code, again.out) == (5, "")
    assert "already exists" in again.err
    assert tuned.run("probe", "tuned", "--truncate", "--html", "out/probe.html", "--force").code == 0
    into = tuned.run("probe", "tuned", "--truncate", "--html", "out", "--force")
    assert (into.code, into.out) == (5, "")
    (tuned.directory / "file").write_text("")
    assert tuned.run("probe", "tuned", "--truncate", "--html", "file/probe.html").code == 10


@pytest.mark.parametrize("library", ["plotly", "jinja2"])
def test_a_page_takes_its_libraries_before_anything_is_computed(
    tuned: Here, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erestore.report import pages

    pages.environment.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(Store, "probe", None)
    ran = tuned.run("probe", "tuned", "--html", "probe.html")
    assert (ran.code, ran.out) == (2, "")
    assert "erestore[report]" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing",), 3, "no revision"),
        (("words",), 2, "is a base"),
        (("tuned", "--tensors", "x*"), 3, "matches 'x"),
        (("tuned", "--sigmas", "0.1,much"), 2, "not a list of numbers"),
        (("tuned", "--sigmas", "-1"), 2, "between 0 and 10"),
        (("tuned", "--sigmas", "nan"), 2, "deviation of nan"),
        (("tuned", "--shares", "1.5"), 2, "between 0 and 1"),
        (("tuned", "--allocation", "--rank", "0"), 2, "Ranks start at 1"),
        (("tuned", "--rank", "4"), 2, "--rank needs --allocation or --stiefel"),
        (("tuned", "--truncate", "--seed", "4"), 2, "--seed needs --perturb"),
        (("tuned", "--samples", "4"), 2, "--samples"),
        (("tuned", "--data", "none.txt"), 3, "no file"),
        (("tuned", "--data", "strange.txt"), 9, "no word"),
        (("bare", "--data", "texts.txt"), 9, "bare file"),
    ],
)
def test_bad_input_is_said_in_a_sentence(tuned: Here, arguments: tuple[str, ...], code: int, words: str) -> None:
    (tuned.directory / "strange.txt").write_text("γάτα\n", "utf-8")
    if arguments[0] == "bare":
        for name in ("words", "tuned"):
            shutil.copy(tuned.directory / name / "model.safetensors", tuned.directory / f"{name}.safetensors")
        assert tuned.run("import", "words.safetensors", "--name", "bare-words").code == 0
        assert tuned.run("commit", "tuned.safetensors", "--base", "bare-words", "--name", "bare").code == 0
    ran = tuned.run("probe", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert len(ran.err.splitlines()) == 2


def test_without_transformers_it_says_what_to_install(tuned: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    ran = tuned.run("probe", "tuned", "--data", "texts.txt")
    assert (ran.code, ran.out) == (2, "")
    assert "pip install transformers" in ran.err
    assert tuned.run("probe", "tuned").code == 0


def test_the_commands_of_the_how_to_page(tuned: Here) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "probe-a-variant.md").read_text("utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert tuned.run("branch", "--force", "ft", "tuned").code == 0
    for line in block.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "erestore"
        ran = tuned.run(*arguments)
        assert ran.code == 0, ran.err
        assert "cosine" in ran.out
