"""Names that differ and mean the same tensor, and names that look alike and do not."""

import re
import warnings

import pytest
import torch
from test_naming import infos, renamed

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.names import match_names
from erestore.errors import CheckpointError

BLOCKS = infos(
    **{
        f"model__layers__{i}__{part}": shape
        for i in range(12)
        for part, shape in (
            ("self_attn__q__weight", (8, 8)),
            ("mlp__up__weight", (16, 8)),
            ("norm__weight", (8,)),
            ("norm__bias", (8,)),
        )
    }
)


def respelled(pattern, replacement, tensors=BLOCKS):
    return {re.sub(pattern, replacement, name): info for name, info in tensors.items()}


def both_ways(own, base):
    """Match in both directions; return the first match, having made sure that both match everything."""
    for match in (match_names(base, own), match_names(own, base)):
        assert match.unmatched_own == match.unmatched_base == ()
        match.require_same_architecture()
    return match


def described(module):
    return {name: TensorInfo(name, "F32", tuple(tensor.shape)) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    ("pattern", "replacement", "description"),
    [
        (r"(layers\.\d+\.)", r"\1_checkpoint_wrapped_module.", "'_checkpoint_wrapped_module.' → ''"),
        (r"(self_attn\.)", r"\1_orig_mod.", "'_orig_mod.' → ''"),
        (r"(layers\.\d+\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module.", ""),
        (r"^(.*layers\.\d+\.)", r"_forward_module._fsdp_wrapped_module.\1_orig_mod.", ""),
        (r"(self_attn\.q|mlp\.up)\.", r"\1.base_layer.", "'base_layer.' → ''"),
        (r"(layers\.\d+\.)", r"\1module.", "'module.' → ''"),
        (r"(mlp\.up)\.", r"\1.modules_to_save.default.", "'modules_to_save.default.' → ''"),
        (r"^model\.(layers\.\d+\.)", r"\1_fpw_module.", ""),
    ],
)
def test_wrappers_anywhere_in_a_name_are_looked_past(pattern, replacement, description):
    match = both_ways(respelled(pattern, replacement), BLOCKS)
    assert match.keys == {re.sub(pattern, replacement, name): name for name in BLOCKS}
    assert not description or match.description == description


def test_a_wrapper_whose_removal_is_ambiguous_stays():
    own = {f"x.{name}": info for name, info in BLOCKS.items()} | infos(
        head__original_module__weight=(8, 8), head__modules_to_save__default__weight=(8, 8)
    )
    match = match_names(own, BLOCKS | infos(head__weight=(8, 8)))
    assert set(match.unmatched_own) == {"head.original_module.weight", "head.modules_to_save.default.weight"}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: re.sub(r"norm\.weight$", "norm.gamma", re.sub(r"norm\.bias$", "norm.beta", name)),
        lambda name: "bert." + re.sub(r"norm\.weight$", "norm.gamma", name),
        lambda name: re.sub(r"norm\.bias$", "norm.beta", name.replace("self_attn.", "self_attn._orig_mod.")),
    ],
)
def test_gains_and_shifts_of_old_are_weights_and_biases(rename):
    both_ways({rename(name): info for name, info in BLOCKS.items()}, BLOCKS)


def test_weight_norm_of_torch_before_and_since_parametrizations():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = torch.nn.utils.weight_norm(torch.nn.Conv1d(4, 6, 3))
    new = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 6, 3))
    match = both_ways(described(torch.nn.Sequential(old)), described(torch.nn.Sequential(new)))
    assert match.keys["0.weight_g"] == "0.parametrizations.weight.original0"
    assert match.keys["0.weight_v"] == "0.parametrizations.weight.original1"


TEXT = infos(
    **{f"language_model__model__layers__{i}__mlp__weight": (64, 16) for i in range(12)},
    language_model__model__embed_tokens__weight=(50, 16),
    language_model__lm_head__weight=(50, 16),
    multi_modal_projector__linear_1__weight=(16, 16),
    multi_modal_projector__linear_2__weight=(16, 16),
)
VISION = infos(
    **{
        f"vision_tower__vision_model__encoder__layers__{i}__{part}__weight": (4, 4)
        for i in range(4)
        for part in ("fc1", "fc2")
    }
)


def since_4_52(name):
    name = name.replace("language_model.model.", "model.language_model.")
    name = name.replace("language_model.lm_head", "lm_head").replace("multi_modal", "model.multi_modal")
    return name.replace("vision_tower.", "model.vision_tower.")


@pytest.mark.parametrize(
    "rename",
    [
        since_4_52,
        lambda name: since_4_52(name).replace("vision_model.", ""),  # transformers 5.24
        lambda name: name.removeprefix("language_model."),
    ],
)
def test_models_whose_modules_moved_between_versions(rename):
    base = TEXT | VISION
    match = both_ways({rename(name): info for name, info in base.items()}, base)
    assert all(rename(key) == name for name, key in match.keys.items())


def test_a_head_that_moved_and_grew():
    own = {since_4_52(name): info for name, info in TEXT.items()} | infos(lm_head__weight=(53, 16))
    assert match_names(own, TEXT).keys["lm_head.weight"] == "language_model.lm_head.weight"


def test_towers_that_are_each_a_small_part_of_the_model():
    towers = {tower: renamed(BLOCKS, "model.", f"{tower}.") for tower in "abcdefghijkl"}
    sizes = {tower: 8 + number for number, tower in enumerate(towers)}
    base = {
        name: TensorInfo(name, "F32", (*info.shape[:-1], sizes[tower]))
        for tower, tensors in towers.items()
        for name, info in tensors.items()
    }
    own = {f"encoders.{name[0]}_encoder{name[1:]}": info for name, info in base.items()}
    assert len(both_ways(own, base).prefixes) == 12


def test_towers_of_one_form_are_not_told_apart():
    base = {
        name: info for tower in "abcdefghijkl" for name, info in renamed(BLOCKS, "model.", f"tower_{tower}.").items()
    }
    own = {re.sub(r"^tower_", "other_", name): info for name, info in base.items()}
    with pytest.raises(CheckpointError, match="another architecture"):
        match_names(own, base).require_same_architecture()


@pytest.mark.parametrize(
    ("heads", "base_heads"),
    [
        (["classifier.dense.weight"], ["cls.transform.dense.weight"]),
        (["head.weight"], ["first.head.weight", "second.head.weight"]),
        (["first.head.weight", "second.head.weight"], ["head.weight"]),
        (["weight"], ["cls.weight"]),
        (["classifier.weight"], ["sop_classifier.classifier.weight"]),  # ALBERT, and its head of pretraining
        (["decode_head.classifier.weight"], ["classifier.weight"]),
        ([f"score.{i}.weight" for i in range(3)], [f"cls.{i}.weight" for i in range(3)]),
    ],
)
def test_what_may_be_another_tensor_is_not_matched(heads, base_heads):
    own, base = ({name: TensorInfo(name, "F32", (8, 8)) for name in names} for names in (heads, base_heads))
    match = match_names(BLOCKS | own, BLOCKS | base)
    assert set(match.unmatched_own) == set(heads)


@pytest.mark.parametrize(("weight", "base_weight"), [((2, 8), (2, 8, 1, 1)), ((2, 8), (2, 16)), ((2, 4), (5, 8, 3))])
def test_the_bias_of_a_head_is_not_that_of_a_head_for_another_task(weight, base_weight):
    own = BLOCKS | infos(classifier__weight=weight, classifier__bias=(2,))
    base = BLOCKS | infos(decode_head__classifier__weight=base_weight, decode_head__classifier__bias=(2,))
    for one, two in ((own, base), (base, own)):
        assert match_names(one, two).keys.keys() == BLOCKS.keys()


class CountedTensor:
    """A tensor whose shape counts how often it is looked at."""

    dtype = "F32"
    looks = 0

    @property
    def shape(self):
        CountedTensor.looks += 1
        return (8, 8)


def test_names_without_a_counterpart_are_not_compared_each_with_each():
    def layers(root, part, count):
        return {f"{root}.{i}.experts.{j}.{part}.weight": CountedTensor() for i in range(count) for j in range(16)}

    def looks(count):
        CountedTensor.looks = 0
        assert not match_names(layers("model.layers", "up", count), layers("transformer.h", "w1", count)).keys
        return CountedTensor.looks

    assert looks(16) < 3 * looks(8)


def test_equal_tails_of_another_model_do_not_make_it_the_base():
    own = infos(**{f"decoder__blocks__{i}__ff__{part}__weight": (8, 8) for i in range(12) for part in ("in", "out")})
    with pytest.raises(CheckpointError, match="another architecture"):
        match_names(
            own | infos(embed__weight=(4, 8)), BLOCKS | infos(model__embed__weight=(4, 8))
        ).require_same_architecture()


FUSED = infos(
    model__layers__0__mlp__experts__gate_up_proj=(4, 32, 16),
    model__layers__0__mlp__experts__down_proj=(4, 16, 16),
    model__layers__0__mlp__gate__weight=(4, 16),
)
MIXTRAL = infos(
    **{
        f"model__layers__0__block_sparse_moe__experts__{i}__{part}__weight": (16, 16)
        for i in range(4)
        for part in ("w1", "w2", "w3")
    },
    model__layers__0__block_sparse_moe__gate__weight=(4, 16),
)
QWEN = infos(
    **{
        f"model__layers__0__mlp__experts__{i}__{part}_proj__weight": (16, 16)
        for i in range(4)
        for part in ("gate", "up", "down")
    },
    model__layers__0__mlp__gate__weight=(4, 16),
)


@pytest.mark.parametrize("single", [MIXTRAL, QWEN, respelled(r"(\.w1|up_proj)\.", r"\1.base_layer.", MIXTRAL)])
@pytest.mark.parametrize("own_is_fused", [True, False])
def test_experts_that_are_fused_on_one_side_are_named_with_a_way_out(single, own_is_fused):
    own, base = (FUSED, single) if own_is_fused else (single, FUSED)
    with pytest.raises(CheckpointError, match="The checkpoint holds its experts") as refused:
        match_names(own, base).require_same_architecture()
    assert ("experts fused (" in refused.value.message) == own_is_fused
    assert ("Fuse those of the base" in str(refused.value.hint)) == own_is_fused
    assert "save_original_format=False" in str(refused.value.hint)
