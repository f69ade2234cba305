"""Vocabularies as tokenizers write them."""

import json

import pytest

from erestore.analysis.diff.tokens import read_tokens


def read(files: dict[str, bytes]) -> dict[int, str]:
    return read_tokens(files, files.__getitem__)


WORDS = {"[PAD]": 0, "hello": 1, "Ġworld": 2}
BY_ID = {0: "[PAD]", 1: "hello", 2: "Ġworld"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", "[PAD]\nhello\nĠworld\n"),
        ("vocab.json", json.dumps(WORDS)),
        ("tokenizer.json", json.dumps({"model": {"vocab": WORDS}})),
        ("tokenizer.json", json.dumps({"model": {"vocab": [["[PAD]", 0.0], ["hello", -1.0], ["Ġworld", -2.0]]}})),
    ],
)
def test_every_form_is_read(name, content):
    assert read({name: content.encode()}) == BY_ID


def test_added_tokens_count_and_win():
    added = [{"id": 2, "content": "<new>"}, {"id": 3, "content": "<more>"}]
    held = {"model": {"vocab": WORDS}, "added_tokens": added}
    assert read({"tokenizer.json": json.dumps(held).encode()}) == {**BY_ID, 2: "<new>", 3: "<more>"}


def test_a_token_may_be_a_line_separator():
    assert read({"vocab.txt": "a\n\u2028\nb".encode()}) == {0: "a", 1: "\u2028", 2: "b"}


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"{", b"[1]", b'{"model": 3}', b"[" * 100_000, b'{"model": {"vocab": [3, []]}}', b'{"a": true}'],
)
def test_what_is_no_vocabulary_is_passed_over(content):
    files = {"tokenizer.json": content, "vocab.txt": b"a\nb\n"}
    assert read(files) == {0: "a", 1: "b"}
    assert read({"tokenizer.json": content}) == {}


def test_half_a_character_is_a_question_mark():
    assert read({"vocab.json": b'{"a\\ud800": 0}'}) == {0: "a?"}


def test_the_fuller_file_comes_first_and_folders_are_not_looked_at():
    files = {"vocab.txt": b"x\n", "tokenizer.json": json.dumps({"model": {"vocab": WORDS}}).encode()}
    assert read(files) == BY_ID
    assert read({"sub/vocab.txt": b"x\n"}) == {}
