"""The paper's finding on real models: noise and low rank do little to a residual, and much to the weights (§3.2, figure 4)."""

import re
from pathlib import Path

import families
import pytest
import torch
from transformers import BertConfig, BertModel

from erestore.analysis.probe.settings import ProbeSettings
from erestore.api import Store
from erestore.encoding.quality import Quality

pytestmark = pytest.mark.models

REACTIONS = (
    "CC(=O)Cl.NCc1ccccc1>>CC(=O)NCc1ccccc1",
    "Brc1ccccc1.OB(O)c1ccncc1>>c1ccc(-c2ccncc2)cc1",
    "CCO.CC(=O)O>>CCOC(C)=O",
    "O=Cc1ccccc1.NCCO>>OCCNCc1ccccc1",
)
TOKEN = re.compile(r"\[[^\]]+\]|Br|Cl|>>|[A-Za-z0-9()=#.\-+/\\]")


def encoded(directory: Path) -> list[dict[str, torch.Tensor]]:
    """Reactions as the model takes them, by the vocabulary that is kept with it."""
    words = {word: number for number, word in enumerate((directory / "vocab.txt").read_text().splitlines())}
    found = []
    for reaction in REACTIONS:
        tokens = TOKEN.findall(reaction)
        assert "".join(tokens) == reaction
        found.append({"input_ids": torch.tensor([[words[each] for each in ("[CLS]", *tokens, "[SEP]")]])})
    return found


def test_a_residual_stands_what_weights_do_not(tmp_path: Path) -> None:
    paths = families.rxnfp()
    store = Store.init(tmp_path / "store")
    store.import_base(paths["bert_pretrained"], name="base")
    store.commit(paths["bert_ft"], base="base", name="ft", quality=Quality(exact=True))
    result = store.probe(
        "ft",
        settings=ProbeSettings(
            ("perturb", "truncate", "allocation"), sigmas=(0.2,), shares=(0.5, 0.2), alphas=(0.0, 0.25)
        ),
        inputs=encoded(paths["bert_ft"]),
        model=BertModel(BertConfig.from_pretrained(paths["bert_ft"])),
    )
    noise = {point.part: point for point in result.perturb.points}
    rank = {(point.part, point.share): point for point in result.truncate.points}
    ways = {point.alpha: point for point in result.allocation.points}
    assert 0.3 < result.features.base_cosine < 0.7
    # Figure 4a. Both lose the same of themselves, but the residual is a fifth of the weights' norm.
    assert noise["weights"].error == pytest.approx(noise["residual"].error, rel=0.05)
    assert noise["weights"].cosine < 0.9
    assert noise["residual"].cosine > 0.99
    # Figure 4b.
    assert rank["weights", 0.2].cosine < 0.6
    assert rank["residual", 0.2].cosine > 0.97
    for share in (0.5, 0.2):
        assert rank["residual", share].error < rank["weights", share].error
    assert 1 - rank["residual", 0.5].cosine < (1 - rank["weights", 0.5].cosine) / 10
    # Figure 7: neither the solution alone nor the same rank for all.
    assert ways[0.25].cosine > ways[None].cosine + 0.02
    assert ways[0.25].cosine > ways[0.0].cosine + 0.02
    assert ways[0.25].bytes < 1.01 * ways[None].bytes
