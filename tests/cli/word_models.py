"""A base with a real tokenizer, a classifier tuned from it, and texts: all made here, of a few words."""

from __future__ import annotations

from pathlib import Path

import torch
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


def write_word_models(directory: Path) -> None:
    """Write ``words/``, ``tuned/``, ``texts.txt`` and ``texts.jsonl``."""
    torch.manual_seed(1)
    base = BertForMaskedLM(CONFIG)
    base.save_pretrained(directory / "words")
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    tokenizer.save_pretrained(directory / "words")
    tuned = BertForSequenceClassification(CONFIG)
    tuned.bert.load_state_dict(base.bert.state_dict(), strict=False)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    tuned.save_pretrained(directory / "tuned")
    (directory / "texts.txt").write_text("the cat sat\n\nthe dog ran far\n" * 5, "utf-8")
    (directory / "texts.jsonl").write_text('{"text": "the cat ran"}\n{"text": "the dog sat", "label": 1}\n', "utf-8")
