"""Names as libraries write them, and where they are."""

import pytest
from families import chgnet, minilm, rxnfp

from erestore.checkpoint.module_kind import KINDS, Place, kind_order, place, places
from erestore.checkpoint.open import open_checkpoint

LAYERS = {
    "bert.encoder.layer.3.attention.self.query.weight": (3, "attention query", "encoder"),
    "bert.encoder.layer.3.attention.self.key.bias": (3, "attention key", "encoder"),
    "encoder.layer.11.attention.self.value.weight": (11, "attention value", "encoder"),
    "encoder.layer.11.attention.output.dense.weight": (11, "attention output", "encoder"),
    "encoder.layer.11.attention.output.LayerNorm.gamma": (11, "norm", "encoder"),
    "roberta.encoder.layer.0.intermediate.dense.weight": (0, "MLP up", "encoder"),
    "roberta.encoder.layer.0.output.dense.bias": (0, "MLP down", "encoder"),
    "deberta.encoder.layer.2.attention.self.query_proj.weight": (2, "attention query", "encoder"),
    "distilbert.transformer.layer.1.attention.q_lin.weight": (1, "attention query", ""),
    "distilbert.transformer.layer.1.ffn.lin2.weight": (1, "MLP down", ""),
    "distilbert.transformer.layer.1.sa_layer_norm.weight": (1, "norm", ""),
    "transformer.h.5.attn.c_attn.weight": (5, "attention qkv", ""),
    "h.5.attn.c_proj.bias": (5, "attention output", ""),
    "transformer.h.5.mlp.c_fc.weight": (5, "MLP up", ""),
    "transformer.h.5.mlp.c_proj.weight": (5, "MLP down", ""),
    "transformer.h.5.ln_2.weight": (5, "norm", ""),
    "transformer.h.7.self_attention.query_key_value.weight": (7, "attention qkv", ""),
    "gpt_neox.layers.7.attention.dense.weight": (7, "attention output", ""),
    "gpt_neox.layers.7.mlp.dense_4h_to_h.weight": (7, "MLP down", ""),
    "transformer.blocks.2.attn.Wqkv.weight": (2, "attention qkv", ""),
    "model.layers.31.self_attn.q_proj.weight": (31, "attention query", ""),
    "model.layers.31.self_attn.o_proj.weight": (31, "attention output", ""),
    "model.layers.31.self_attn.qkv_proj.weight": (31, "attention qkv", ""),
    "model.layers.0.mlp.gate_proj.weight": (0, "MLP gate", ""),
    "model.layers.0.mlp.up_proj.weight": (0, "MLP up", ""),
    "model.layers.0.mlp.gate_up_proj.weight": (0, "MLP gate and up", ""),
    "model.layers.0.mlp.down_proj.weight": (0, "MLP down", ""),
    "model.layers.0.post_attention_layernorm.weight": (0, "norm", ""),
    "model.layers.0.self_attn.q_norm.weight": (0, "norm", ""),
    "model.layers.3.self_attn.q_a_proj.weight": (3, "attention query", ""),
    "model.layers.3.self_attn.kv_a_proj_with_mqa.weight": (3, "attention kv", ""),
    "model.layers.1.block_sparse_moe.experts.7.w2.weight": (1, "expert down", ""),
    "model.layers.1.block_sparse_moe.gate.weight": (1, "router", ""),
    "model.layers.1.mlp.gate.weight": (1, "router", ""),
    "model.layers.1.mlp.experts.gate_up_proj": (1, "expert gate and up", ""),
    "model.layers.1.mlp.shared_experts.up_proj.weight": (1, "expert up", ""),
    "layers.0.attention.wk.weight": (0, "attention key", ""),
    "layers.0.feed_forward.w3.weight": (0, "MLP up", ""),
    "encoder.block.4.layer.0.SelfAttention.q.weight": (4, "attention query", "encoder"),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (0, "attention position", "encoder"),
    "encoder.block.4.layer.1.DenseReluDense.wi_0.weight": (4, "MLP gate", "encoder"),
    "encoder.block.4.layer.1.DenseReluDense.wi_1.weight": (4, "MLP up", "encoder"),
    "decoder.block.4.layer.1.EncDecAttention.v.weight": (4, "cross-attention value", "decoder"),
    "decoder.block.4.layer.2.DenseReluDense.wo.weight": (4, "MLP down", "decoder"),
    "decoder.block.4.layer.2.layer_norm.weight": (4, "norm", "decoder"),
    "model.decoder.layers.2.encoder_attn.out_proj.weight": (2, "cross-attention output", "decoder"),
    "model.encoder.layers.2.fc1.weight": (2, "MLP up", "encoder"),
    "transformer.decoder.layers.5.multihead_attn.in_proj_bias": (5, "cross-attention qkv", "decoder"),
    "transformer.encoder.layers.5.linear2.weight": (5, "MLP down", "encoder"),
    "vit.encoder.layer.6.attention.attention.query.weight": (6, "attention query", "encoder"),
    "vit.encoder.layer.6.layernorm_before.weight": (6, "norm", "encoder"),
    "blocks.6.attn.qkv.weight": (6, "attention qkv", ""),
    "blocks.6.attn.proj.bias": (6, "attention output", ""),
    "blocks.6.mlp.fc2.weight": (6, "MLP down", ""),
    "blocks.6.ls1.gamma": (6, "layer scale", ""),
    "blocks.6.norm1.weight": (6, "norm", ""),
    "encoder.layers.encoder_layer_8.self_attention.in_proj_weight": (8, "attention qkv", "encoder"),
    "vision_model.encoder.layers.1.self_attn.k_proj.weight": (1, "attention key", "vision"),
    "text_model.encoder.layer.1.crossattention.self.value.weight": (1, "cross-attention value", "text"),
    "visual.transformer.resblocks.3.attn.in_proj_weight": (3, "attention qkv", "vision"),
    "language_model.model.layers.9.mlp.up_proj.weight": (9, "MLP up", "language"),
    "backbone.layers.2.mixer.in_proj.weight": (2, "mixer.in_proj", ""),
    "layer3.5.conv2.weight": (3, "conv2", ""),
    "layer3.5.bn2.running_mean": (3, "norm", ""),
    "stages.2.blocks.8.conv_dw.weight": (2, "conv_dw", ""),
    "atom_conv_layers.3.twoBody_atom.mlp_core.layers.3.weight": (3, "twoBody_atom.mlp_core", "atom_conv"),
    "lstm.weight_ih_l0": (0, "lstm input", ""),
    "lstm.bias_hh_l1_reverse": (1, "lstm recurrent (reverse)", ""),
    "2.weight": (2, "layer", ""),
    "features.10.weight": (10, "features", ""),
    "0.auto_model.encoder.layer.5.output.dense.weight": (5, "MLP down", "encoder"),
}
OUTSIDE = {
    "bert.embeddings.word_embeddings.weight": "word embeddings",
    "embeddings.position_embeddings.weight": "position embeddings",
    "embeddings.token_type_embeddings.weight": "token type embeddings",
    "embeddings.LayerNorm.weight": "norm",
    "pooler.dense.weight": "pooler",
    "cls.predictions.decoder.bias": "head",
    "cls.predictions.transform.LayerNorm.weight": "head",
    "classifier.out_proj.weight": "head",
    "lm_head.layer_norm.bias": "head",
    "score.weight": "head",
    "vocab_projector.weight": "head",
    "transformer.wte.weight": "word embeddings",
    "transformer.wpe.weight": "position embeddings",
    "transformer.ln_f.bias": "norm",
    "model.embed_tokens.weight": "word embeddings",
    "model.norm.weight": "norm",
    "lm_head.weight": "head",
    "output.weight": "head",
    "shared.weight": "word embeddings",
    "decoder.weight": "head",
    "fc.bias": "head",
    "cls_token": "special tokens",
    "pos_embed": "position embeddings",
    "patch_embed.proj.weight": "patch embeddings",
    "vit.embeddings.patch_embeddings.projection.bias": "patch embeddings",
    "embeddings.weight": "word embeddings",
    "head.fc.weight": "head",
    "composition_model.fc.weight": "composition_model.fc",
    "mlp.layers.4.weight": "mlp",
    "conv1.weight": "conv1",
    "rnn.weight_hh": "rnn recurrent",
    "weight": "weight",
    "": "layer",
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    assert place(name) == Place(*LAYERS[name])


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_of_layers(name):
    found = place(name)
    assert (found.depth, found.kind) == (None, OUTSIDE[name])


@pytest.mark.parametrize("number", ["²", "٣", "9" * 7, "9" * 5000, "-1", "1e3", "0x1"])
def test_what_numbers_no_layer(number):
    assert place(f"layers.{number}.mlp.fc1.weight").depth is None
    assert place(f"layer{number}.0.conv1.weight").depth in (None, 0)
    assert place(f"lstm.weight_ih_l{number}").depth is None
    assert place("layers.999999.mlp.fc1.weight").depth == 999999


def test_one_stack_needs_no_name_and_two_do():
    bert = ["embeddings.word_embeddings.weight", "encoder.layer.7.output.dense.weight", "pooler.dense.weight"]
    assert [found.row for found in places(bert).values()] == ["word embeddings", "MLP down", "pooler"]
    assert [found.depth for found in places(bert).values()] == [None, 7, None]
    t5 = [
        "shared.weight",
        "encoder.block.1.layer.0.SelfAttention.k.weight",
        "encoder.final_layer_norm.weight",
        "decoder.block.0.layer.0.SelfAttention.k.weight",
        "decoder.block.0.layer.1.EncDecAttention.k.weight",
        "lm_head.weight",
    ]
    assert {name: (found.row, found.depth) for name, found in places(t5).items()} == dict(
        zip(
            t5,
            [
                ("word embeddings", None),
                ("encoder attention key", 1),
                ("encoder norm", None),
                ("decoder attention key", 0),
                ("decoder cross-attention key", 0),
                ("head", None),
            ],
            strict=True,
        )
    )


def test_layers_inside_stages_are_numbered_through():
    swin = [f"layers.{stage}.blocks.{block}.mlp.fc1.weight" for stage in range(3) for block in range(2 + stage)]
    found = places([*reversed(swin), "layers.1.downsample.reduction.weight", "norm.weight"])
    assert [found[name].depth for name in swin] == list(range(9))
    assert found["layers.1.downsample.reduction.weight"] == Place(2, "downsample.reduction")
    assert found["norm.weight"] == Place(None, "norm")
    resnet = places(["layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight", "conv1.weight"])
    assert [each.depth for each in resnet.values()] == [0, 1, 2, None]
    assert [each.depth for each in places(["blocks.0.0.conv.weight", "blocks.2.1.conv.weight"]).values()] == [0, 1]


def test_layers_that_are_missing_leave_their_numbers():
    found = places(["model.layers.3.mlp.up_proj.weight", "model.layers.30.mlp.up_proj.weight"])
    assert [each.depth for each in found.values()] == [3, 30]


def test_kinds_are_in_the_order_of_a_model():
    kinds = ["head", "MLP down", "something.else", "attention query", "word embeddings", "norm"]
    assert sorted(kinds, key=kind_order) == [
        "word embeddings",
        "attention query",
        "MLP down",
        "something.else",
        "norm",
        "head",
    ]
    assert len(set(KINDS)) == len(KINDS)


@pytest.mark.models
@pytest.mark.parametrize(("family", "name", "depths"), [(rxnfp, "bert_ft", 12), (minilm, "base", 6)])
def test_all_of_a_real_encoder_is_known(family, name, depths):
    with open_checkpoint(family()[name]) as checkpoint:
        found = places(checkpoint.tensors)
    kinds = {each.kind for each in found.values() if each.depth is not None}
    assert kinds == {
        *(f"attention {what}" for what in ("query", "key", "value", "output")),
        "MLP up",
        "MLP down",
        "norm",
    }
    assert {each.depth for each in found.values()} - {None} == set(range(depths))
    outside = {
        kind for each in found.values() if each.depth is None and (kind := each.kind) != "embeddings.position_ids"
    }
    assert outside <= {*KINDS, "embeddings"}


@pytest.mark.models
def test_a_model_of_no_common_kind_keeps_its_own_words():
    with open_checkpoint(chgnet()["0.3.0"]) as checkpoint:
        found = places(checkpoint.tensors)
    rows = {each.row: each.depth for each in found.values()}
    assert {"atom_conv norm", "bond_conv twoBody_bond.mlp_core", "angle twoBody_bond.mlp_gate", "mlp"} <= set(rows)
    assert max(each.depth for each in found.values() if each.stack == "atom_conv") == 3
