"""``erestore calibrate`` with a real model and tokenizer, made here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Here
from peft import LoraConfig, get_peft_model
from transformers import BertForMaskedLM, PreTrainedTokenizerFast, T5Config, T5Model
from word_models import CONFIG, WORDS


def test_commits_are_calibrated_from_then_on(work: Here) -> None:
    done = work.json("calibrate", "words", "--data", "texts.txt")
    assert (done["base"], done["samples"], done["tensors"]) == ("words", 10, 6)
    assert done["stored_bytes"] > 1000
    assert "calibrated with 10 examples" in work.run("show", "words").out
    assert work.json("show", "words")["calibrated_with"] == 10
    assert work.run("commit", "tuned", "--base", "words").code == 0
    assert "calibrated" in work.run("show", "tuned").out
    assert work.json("fsck", "--read-data")["unreachable"] == []
    assert work.run("commit", "tuned", "--base", "words", "--objective", "frobenius").code == 0
    assert "calibrated" not in work.run("show", "tuned").out


def test_texts_may_be_fewer_and_in_json(work: Here) -> None:
    assert "1 text:" in work.run("calibrate", "words", "--data", "texts.jsonl", "--samples", "1").out
    assert work.json("calibrate", "words", "--data", "texts.txt", "--samples", "4")["samples"] == 4
    assert work.json("calibrate", "words", "--data", "texts.jsonl")["samples"] == 2


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("none.txt", None, 3, "no file"),
        ("empty.txt", b"\n  \n", 2, "no texts"),
        ("bytes.txt", b"\xff\xfe\x00", 2, "UTF-8"),
        ("bad.jsonl", b'{"text": "the cat"}\n{"texts": 3}\n', 2, "Line 2"),
        ("worse.jsonl", b"the cat\n", 2, "Line 1"),
        ("strange.txt", "γάτα\n".encode(), 9, "no word"),
        ("table.csv", b"text\nthe cat\n", 2, "not a text file"),
        ("list.json", b'["the cat"]\n', 2, "not a text file"),
    ],
)
def test_bad_data_is_said_in_a_sentence(work: Here, name: str, content: bytes | None, code: int, words: str) -> None:
    if content is not None:
        (work.directory / name).write_bytes(content)
    ran = work.run("calibrate", "words", "--data", name)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_bad_bases_are_said_in_a_sentence(work: Here, tmp_path: Path) -> None:
    assert work.run("calibrate", "other", "--data", "texts.txt").code == 3
    assert work.run("commit", "tuned", "--base", "words", "--objective", "calibrated").code == 2
    assert work.run("commit", "tuned", "--base", "words").code == 0
    ran = work.run("calibrate", "tuned", "--data", "texts.txt")
    assert ran.code == 2
    assert "variant" in ran.err
    config = work.directory / "words" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "of-nobody"}))
    assert work.run("import", "words", "--name", "strange").code == 0
    ran = work.run("calibrate", "strange", "--data", "texts.txt")
    assert ran.code == 9
    assert "transformers cannot load" in ran.err
    assert "Traceback" not in ran.err


def test_without_transformers_it_says_what_to_install(work: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "calibrated" not in work.run("show", "words").out
    monkeypatch.setitem(sys.modules, "transformers", None)
    ran = work.run("calibrate", "words", "--data", "texts.txt")
    assert (ran.code, ran.out) == (2, "")
    assert "pip install transformers" in ran.err
    assert work.json("show", "words")["calibrated_with"] is None


def test_any_json_lines_are_read(work: Here) -> None:
    """A text may hold what other lines end with; the name may be in capitals, and the file begin with a mark."""
    lines = [json.dumps({"text": f"the cat{mark}sat"}, ensure_ascii=False) for mark in ("\u2028", "\x85", "\x0c")]
    (work.directory / "LINES.JSONL").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\r\n")
    assert work.json("calibrate", "words", "--data", "LINES.JSONL")["samples"] == 3


@pytest.mark.parametrize("missing", [{"pad_token": None, "eos_token": None}, {"model_max_length": 10**30}])
def test_tokenizers_that_lack_something_do(work: Here, missing: dict[str, Any]) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work.directory / "words")
    for name, value in missing.items():
        setattr(tokenizer, name, value)
    shutil.copytree(work.directory / "words", work.directory / "lacking")
    tokenizer.save_pretrained(work.directory / "lacking")
    (work.directory / "long.txt").write_text("the cat sat " * 30 + "\nthe dog\n")
    assert work.run("import", "lacking", "--name", "lacking").code == 0
    assert work.json("calibrate", "lacking", "--data", "long.txt")["samples"] == 2


def test_an_encoder_with_a_decoder_is_refused_in_a_sentence(work: Here) -> None:
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(work.directory / "t5")
    assert work.run("import", "t5", "--name", "t5").code == 0
    ran = work.run("calibrate", "t5", "--data", "texts.txt")
    assert (ran.code, ran.out) == (9, "")
    assert "decoder" in ran.err


def test_the_commands_of_the_how_to_page(work: Here) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "choose-the-quality.md").read_text("utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert work.run("import", "words", "--name", "roberta-large").code == 0
    shutil.rmtree(work.directory / "ft")
    shutil.copytree(work.directory / "tuned", work.directory / "ft")
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [command[:2] for command in commands] == [["erestore", verb] for verb in ("calibrate", "commit", "commit")]
    for command in commands:
        ran = work.run(*command[1:])
        assert ran.code == 0, ran.err
    found = [work.json("show", name)["quality"].get("objective") for name in ("ft-calibrated", "ft-plain")]
    assert found == ["calibrated", "frobenius"]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft itself
def test_an_adapter_has_no_objective(work: Here) -> None:
    model = get_peft_model(BertForMaskedLM(CONFIG), LoraConfig(target_modules=["query"], r=2))
    model.save_pretrained(work.directory / "adapter")
    assert work.run("calibrate", "words", "--data", "texts.txt").code == 0
    for objective in ("calibrated", "frobenius"):
        refused = work.run("commit", "adapter", "--base", "words", "--objective", objective)
        assert refused.code == 2
        assert "adapter" in refused.err
    assert work.run("commit", "adapter", "--base", "words").code == 0
    assert "calibrat" not in work.run("show", "adapter").out
