import pytest
from hypothesis import given
from hypothesis import strategies as st

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.names import fits, match_names
from erestore.errors import CheckpointError


def infos(**shapes):
    return {
        name.replace("__", "."): TensorInfo(name, *(shape if isinstance(shape[0], str) else ("F32", shape)))
        for name, shape in shapes.items()
    }


def renamed(tensors, old, new):
    return {new + name.removeprefix(old): info for name, info in tensors.items()}


LAYERS = infos(**{f"model__layers__{i}__{part}__weight": (8, 4 + i) for i in range(4) for part in ("q", "k", "up")})


def test_equal_names():
    match = match_names(LAYERS, LAYERS)
    assert match.keys == {name: name for name in LAYERS}
    assert match.description == ""
    assert match.matched_elements == match.total_elements


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.", ""),
        ("", "bert."),
        ("", "module."),
        ("", "_orig_mod."),
        ("", "base_model.model."),
        ("model.", "model.language_model."),
        ("model.", "language_model.model."),
        ("model.", "roberta."),
    ],
)
def test_any_change_of_prefix_both_ways(old, new):
    own = renamed(LAYERS, old, new)
    for one, two in ((own, LAYERS), (LAYERS, own)):
        match = match_names(one, two)
        assert len(match.keys) == len(LAYERS)
        assert len(match.prefixes + match.wrappers) == 1
        assert match.unmatched_own == match.unmatched_base == ()


def test_two_prefixes_for_two_towers():
    images = {name: TensorInfo(name, "F32", (*info.shape[:-1], 9)) for name, info in LAYERS.items()}
    own = renamed(images, "model.", "vision.") | renamed(LAYERS, "model.", "text.")
    base = renamed(images, "model.", "image_encoder.") | LAYERS
    match = match_names(own, base)
    assert len(match.keys) == len(own)
    assert {name.partition(".")[0]: key.partition(".")[0] for name, key in match.keys.items()} == {
        "vision": "image_encoder",
        "text": "model",
    }


def test_one_tower_that_may_be_two_of_the_base_is_neither():
    base = renamed(LAYERS, "model.", "question.") | renamed(LAYERS, "model.", "context.")
    for own in (LAYERS, renamed(LAYERS, "model.", "")):
        assert match_names(own, base).keys == {}
        assert len(match_names(base, own).keys) == len(own)


CROSS = {name.replace(".up.", ".encoder_attn."): info for name, info in LAYERS.items() if ".up." in name}
ENCODER = renamed(LAYERS, "model.", "model.encoder.")
DECODER = renamed(LAYERS | CROSS, "model.", "model.decoder.")


@pytest.mark.parametrize("prefix", ["", "encoder.", "audio_tower."])
@pytest.mark.parametrize("full", [ENCODER | DECODER, DECODER | ENCODER])
def test_an_encoder_alone_is_the_encoder_of_the_base(prefix, full):
    own = renamed(LAYERS, "model.", prefix)
    for one, two in ((own, full), (full, own)):
        match = match_names(one, two)
        assert len(match.keys) == len(LAYERS)
        assert not any("decoder" in name for names in match.keys.items() for name in names)


def test_an_encoder_is_no_decoder():
    for own in (ENCODER, renamed(ENCODER, "model.", "")):
        for one, two in ((own, DECODER), (DECODER, own)):
            with pytest.raises(CheckpointError, match="another architecture"):
                match_names(one, two).require_same_architecture()


def test_further_layers_of_an_encoder_are_not_those_of_the_decoder():
    alike = {f"layers.{i}.{part}.weight": (8, 8) for i in range(4) for part in ("q", "k", "up")}
    own = {name: TensorInfo(name, "F32", shape) for name, shape in alike.items()}
    half = {name: info for name, info in own.items() if int(name.split(".")[1]) < 2}
    cross = {f"layers.{i}.encoder_attn.weight": TensorInfo("x", "F32", (8, 8)) for i in range(2)}
    base = renamed(half, "", "model.encoder.") | renamed(half | cross, "", "model.decoder.")
    match = match_names(own, base)
    assert match.keys == {name: f"model.encoder.{name}" for name in half}


def test_two_names_for_one_tensor_of_the_base():
    first = {name: info for name, info in LAYERS.items() if ".0." in name}
    wrapped = renamed(LAYERS, "", "module.")
    for own in (first | wrapped, wrapped | first):
        match = match_names(own, LAYERS)
        assert len(set(match.keys.values())) == len(match.keys) == len(LAYERS)
        assert set(match.unmatched_own) == {f"module.{name}" for name in first}


def test_one_common_word_is_no_common_name():
    match = match_names(infos(a__big__weight=(48, 16)), infos(c__embed__weight=(48, 16)))
    assert match.keys == {}
    match = match_names(infos(weight=(48, 16)), infos(embed__weight=(48, 16)))
    assert match.keys == {"weight": "embed.weight"}


def test_a_small_head_is_not_taken_for_another():
    own = LAYERS | infos(classifier__dense__weight=(4, 4), classifier__dense__bias=(4,))
    base = LAYERS | infos(cls__transform__dense__weight=(4, 4), cls__transform__dense__bias=(4,))
    match = match_names(own, base)
    assert match.unmatched_own == ("classifier.dense.weight", "classifier.dense.bias")
    assert match.prefixes == ()


def test_vocabulary_that_grew_or_shrank_fits():
    own, base = LAYERS | infos(embed__weight=(12, 4)), LAYERS | infos(embed__weight=(10, 4))
    for one, two in ((own, base), (base, own)):
        match = match_names(one, two)
        assert match.keys["embed.weight"] == "embed.weight"
        assert not match.mismatched


def test_mismatched_shapes_are_reported():
    own, base = LAYERS | infos(head__bias=(3,)), LAYERS | infos(head__bias=(2,))
    match = match_names(own, base)
    assert {name: [each.shape for each in both] for name, both in match.mismatched.items()} == {
        "head.bias": [(3,), (2,)]
    }
    assert match.unmatched_own == match.unmatched_base == ("head.bias",)
    match.require_same_architecture()


@pytest.mark.parametrize(
    ("own", "base", "expected"),
    [
        (("F32", (2,)), ("BF16", (2,)), True),
        (("F32", (2,)), ("F8_E4M3", (2,)), True),
        (("F32", (2,)), ("I64", (2,)), False),
        (("I64", (2,)), ("I32", (2,)), False),
        (("I64", (2,)), ("I64", (2,)), True),
        (("I64", (2, 3)), ("I64", (4, 3)), False),
        (("F32", (2, 3)), ("F32", (4, 3)), True),
        (("F32", (2, 3, 3)), ("F32", (4, 3, 3)), True),
        (("F32", (2,)), ("F32", (3,)), False),
        (("F32", ()), ("F32", ()), True),
        (("F32", (2, 3)), ("F32", (2, 4)), False),
    ],
)
def test_fits(own, base, expected):
    assert fits(TensorInfo("a", *own), TensorInfo("b", *base)) is expected


def test_wrong_architecture_names_the_first_mismatch_and_counts():
    own = infos(a__b__weight=(4, 6), a__c__weight=(2, 2))
    base = infos(a__b__weight=(4, 5), a__c__weight=(2, 2))
    match = match_names(own, base)
    with pytest.raises(CheckpointError) as caught:
        match.require_same_architecture()
    assert "'a.b.weight' is [4, 6] here and [4, 5] in the base; 1 of 2 tensors match (17% of" in caught.value.message
    with pytest.raises(CheckpointError, match=r"'x.a.b.weight' is \[4, 6\] here and \[4, 5\] in the base; 0 of 1"):
        match_names({"x.a.b.weight": own["a.b.weight"]}, base).require_same_architecture()
    with pytest.raises(CheckpointError, match="the base has nothing like 'foo'"):
        match_names(infos(foo=(100,)), base).require_same_architecture()


def test_nothing_at_all_is_no_mismatch():
    match_names({}, LAYERS).require_same_architecture()


@given(
    *[
        st.dictionaries(
            st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join),
            st.builds(
                TensorInfo, st.just("n"), st.sampled_from(["F32", "I64"]), st.lists(st.integers(0, 3)).map(tuple)
            ),
            max_size=8,
        )
    ]
    * 2
)
def test_matching_is_always_injective_and_fitting(own, base):
    match = match_names(own, base)
    assert len(set(match.keys.values())) == len(match.keys)
    assert all(fits(own[name], base[key]) for name, key in match.keys.items())
    assert set(match.keys) | set(match.unmatched_own) == set(own)
    assert set(match.keys.values()) | set(match.unmatched_base) == set(base)
    assert 0 <= match.matched_elements <= match.total_elements
