"""How much a classifier's answers change when its weights are replaced by what a store gives back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from fine_tune import encode
from labelled_texts import load_task
from pairs import PREFIX, SOURCES, Pair, families
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

TEXTS = 512
"""Held-out texts, the same for every method."""
BATCH = 64


class Judge:
    """Asks a classifier about held-out texts, first with its own weights and then with others.

    Parameters
    ----------
    pair : Pair
        With a task.
    """

    def __init__(self, pair: Pair) -> None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(pair.original)
        examples = load_task(SOURCES[pair.name].task, families.cache()).test[:TEXTS]
        examples = sorted(examples, key=lambda example: len(example.text))  # so that little of a batch is padding
        self._batches = [encode(tokenizer, examples[n : n + BATCH]) for n in range(0, len(examples), BATCH)]
        self._labels = torch.tensor([example.label for example in examples])
        self._model = AutoModelForSequenceClassification.from_pretrained(pair.original).eval()
        self._own = pair.tuned_weights
        self._expected = self._answers({})

    def judge(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the accuracy, how often the answer is the original's, and the mean ``KL(original || this)`` in nats.

        Parameters
        ----------
        values : Mapping[str, Tensor]
            Under the names of :func:`pairs.common_names`; what is missing is as in the original.
        """
        found, expected = self._answers(values), self._expected
        answers = found.argmax(1)
        return {
            "accuracy": float((answers == self._labels).double().mean()),
            "agreement": float((answers == expected.argmax(1)).double().mean()),
            "kl": float((expected.exp() * (expected - found)).sum(1).mean()),
        }

    @torch.inference_mode()
    def _answers(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return log probabilities, float64 ``(texts, classes)``."""
        for name, parameter in self._model.state_dict().items():
            own = PREFIX.sub("", name)
            if own in self._own:
                parameter.copy_(values.get(own, self._own[own]))
        return torch.cat([self._model(**batch).logits for batch in self._batches]).double().log_softmax(1)
