"""``erestore calibrate`` with a real model and tokenizer, made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import Here
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "the", "cat", "dog", "sat", "ran", "far"]
CONFIG = BertConfig(
    vocab_size=len(WORDS),
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=16,
    pad_token_id=0,
)


@pytest.fixture
def work(here: Here) -> Here:
    """A directory with a base, a classifier tuned from it, and texts."""
    torch.manual_seed(1)
    base = BertForMaskedLM(CONFIG)
    base.save_pretrained(here.directory / "words")
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    tokenizer.save_pretrained(here.directory / "words")
    tuned = BertForSequenceClassification(CONFIG)
    tuned.bert.load_state_dict(base.bert.state_dict(), strict=False)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    tuned.save_pretrained(here.directory / "tuned")
    (here.directory / "texts.txt").write_text("the cat sat\n\nthe dog ran far\n" * 5, "utf-8")
    (here.directory / "texts.jsonl").write_text(
        '{"text": "the cat ran"}\n{"text": "the dog sat", "label": 1}\n', "utf-8"
    )
    assert here.run("import", "words", "--name", "words").code == 0
    return here


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
