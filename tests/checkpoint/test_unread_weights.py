"""Which side files hold weights, by what real libraries write."""

from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

from erestore.checkpoint.unread_weights import START, holds_weights


def written(write, *args) -> bytes:
    file = io.BytesIO()
    write(*args, file) if write is not np.save and write is not np.savez else write(file, *args)
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model_weights.ckpt"))
    return file.getvalue()


TENSORS = {"a": torch.ones(3, 2)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("head.bin", written(torch.save, TENSORS)),
        ("classifier", written(torch.save, TENSORS)),
        ("vocab.bin", written(torch.save, TENSORS)),
        (
            "old.dat",
            written(lambda tensors, file: torch.save(tensors, file, _use_new_zipfile_serialization=False), TENSORS),
        ),
        ("extra/projection", save_safetensors(TENSORS)),
        ("model_head.pkl", pickle.dumps({"a": 1}, protocol=0)),
        ("counter", pickle.dumps({"a": 1}, protocol=5)),
        ("idf.npy", written(np.save, np.ones(3))),
        ("idf", written(np.savez, np.ones(3))),
        ("speech.nemo", tar()),
        ("ner/model", b"\x82\xa4dims\x93\x01"),
        ("openvino_model.bin", np.ones(2000, np.float32).tobytes()),
    ],
)
def test_files_of_tensors_arrays_and_pickles(name: str, content: bytes) -> None:
    assert holds_weights(name, content[:START])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.bin", b"the\nof\n"),
        ("words.bin", ("a" + "\u00e9" * START).encode()),
        ("vocab.bin", b"\x00\x01\xff\xfe" * 40),
        ("counter.ckpt", b"12\n"),
        ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00"),
        ("training_args.bin", written(torch.save, {"lr": 1.0})),
        ("empty.bin", b""),
        ("bundle.zip", b"PK\x03\x04" + bytes(22) + b"\x08\x00\x00\x00notes.md"),
    ],
)
def test_files_of_words_text_and_settings(name: str, content: bytes) -> None:
    assert not holds_weights(name, content[:START])
