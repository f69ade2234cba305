"""Every real family: read, written again, and read by the user's library."""

import families
import pytest
import torch
from checkpoints import assert_same, write_again

from erestore.checkpoint.names import match_names
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CheckpointError

pytestmark = pytest.mark.models

FAMILIES = [families.rxnfp, families.minilm, families.chgnet, families.glyphive, families.silero]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_comes_back_bit_for_bit(tmp_path, family):
    for name, path in family().items():
        write_again(path, tmp_path / name)
        assert_same(path, tmp_path / name)


@pytest.mark.parametrize(
    ("family", "base", "unmatched"),
    [
        (families.rxnfp, "bert_pretrained", {"classifier.weight", "classifier.bias"}),
        (families.rxnfp, "bert_ft", None),
        (families.chgnet, "0.3.0", set()),
        (families.glyphive, "ocrb", set()),
        (families.silero, "v5", set()),
    ],
)
def test_variants_match_their_base(family, base, unmatched):
    paths = family()
    with open_checkpoint(paths[base]) as opened:
        for name, path in paths.items():
            if name not in (base, "0.2.0"):
                with open_checkpoint(path) as variant:
                    match = match_names(variant.tensors, opened.tensors)
                    match.require_same_architecture()
                    assert unmatched is None or set(match.unmatched_own) <= unmatched


def test_unrelated_version_is_a_wrong_base():
    paths = families.chgnet()
    with (
        open_checkpoint(paths["0.2.0"]) as base,
        open_checkpoint(paths["0.3.0"]) as variant,
        pytest.raises(CheckpointError, match=r"'bond_basis_expansion\S+' is \[31\] here and \[9\] in the base"),
    ):
        match_names(variant.tensors, base.tensors).require_same_architecture()


def test_rxnfp_opens_in_transformers_as_it_is_and_converted(tmp_path):
    from transformers import BertForMaskedLM

    source = families.rxnfp()["bert_pretrained"]
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.ties == (("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),)
    expected = torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
    for format_wanted in ("torch", "safetensors"):
        write_again(source, tmp_path / format_wanted, format=format_wanted)
        state = BertForMaskedLM.from_pretrained(tmp_path / format_wanted).state_dict()
        shared = state.keys() & expected.keys()  # today's BERT has one name more for the bias of the head
        assert len(shared) == 203
        assert all(torch.equal(state[name], expected[name]) for name in shared)
