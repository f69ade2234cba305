"""Quantised weights are recognised by names, dtypes and shapes, and dequantised as the formulas of their schemes say.

The formulas here are loops over single values. At development time the results were held against torchao 0.18.0, bitsandbytes
0.50.2, compressed-tensors 0.20.1 and transformers 5.24.0 (docs/reference/quantised-formats.md).
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from quantised import (
    FP4,
    OPAQUE,
    awq,
    bitsandbytes_4bit,
    compressed,
    fp8,
    gptq,
    int8,
    mxfp4,
    nvfp4,
    opaque,
    plain,
    torchao,
)

from erestore.arrays import as_array
from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import describe
from erestore.checkpoint.quantised_weights import find_quantised, needs_configuration, quantisation_configuration


def infos(tensors):
    return {name: TensorInfo(name, *describe(tensor, name)) for name, tensor in tensors.items()}


def dequantised(tensors, configuration=None):
    (weight,) = find_quantised(infos(tensors), configuration)
    assert set(weight.members) == set(tensors)
    return weight, weight.dequantise(lambda name: as_array(tensors[name]))


@pytest.mark.parametrize(
    ("tensors", "wanted", "scheme", "name"),
    [
        (*fp8((6, 8), (2, 4)), "a.weight"),
        (*fp8((6, 8), (2, 4), scale="a.weight_scale"), "a.weight"),
        (*fp8((6, 8), (2, 4), exponents=True), "a.weight"),
        (*fp8((6, 8), (1, 8), scale="a.qscale_weight"), "a.weight"),
        (*fp8((6, 8), (6, 8), scale="a.scale"), "a.weight"),
        (*fp8((5, 7), (4, 4)), "a.weight"),
        (*fp8((2, 6, 8), (1, 2, 4), codes="a.gate_up_proj", scale="a.gate_up_proj_scale_inv"), "a.gate_up_proj"),
        (*int8("a.SCB", "bitsandbytes int8", 127), "a.weight"),
        (*int8("a.weight_scale", "int8", 1), "a.weight"),
        (*torchao(), "a.weight"),
        (*mxfp4(), "a.gate_up_proj"),
        (*nvfp4("a.weight_packed", "a.weight_global_scale"), "a.weight"),
        (*nvfp4("a.weight", "a.weight_scale_2"), "a.weight"),
        (*compressed(), "a.weight"),
        (*gptq(), "a.weight"),
        (*awq(), "a.weight"),
        (*bitsandbytes_4bit(), "a.weight"),
        (*bitsandbytes_4bit(nested=True), "a.weight"),
    ],
)
def test_schemes(tensors, wanted, scheme, name):
    weight, value = dequantised(tensors)
    assert (weight.scheme.name, weight.name) == (scheme, name)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=0)


def test_names_alone_do_not_make_codes():
    floats = plain() | {"norm.weight": torch.ones(4), "norm.weight_scale": torch.ones(1), "bn.scale": torch.ones(4)}
    assert not find_quantised(infos(floats))
    bare = {"a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "a.position_ids": torch.arange(4)}
    assert not find_quantised(infos(bare))  # a cast, not a scheme


def test_scales_of_activations_belong_to_the_weight_and_change_no_value():
    tensors, wanted, _ = fp8((6, 8), (6, 8), scale="a.weight_scale")
    tensors |= {"a.input_scale": torch.tensor(3.0)}
    _, value = dequantised(tensors)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_stated_block_sizes_decide_where_shapes_do_not():
    tensors, _, _ = fp8((6, 8), (4, 4))  # two blocks of rows: 4 and 2, as no shape tells
    _, value = dequantised(tensors, {"weight_block_size": [4, 4]})
    scale = tensors["a.weight_scale_inv"]
    codes = tensors["a.weight"].float()
    np.testing.assert_allclose(value[3], codes[3].numpy() * scale[0].repeat_interleave(4).numpy(), rtol=1e-6)
    np.testing.assert_allclose(value[4], codes[4].numpy() * scale[1].repeat_interleave(4).numpy(), rtol=1e-6)


def test_blocks_of_128_go_before_blocks_of_one_size():
    """200 rows in two blocks are 128 and 72, as transformers has it, not twice 100."""
    tensors, wanted, _ = fp8((200, 130), (128, 128))
    weight, value = dequantised(tensors)
    assert weight.block == (128, 128)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_what_does_not_fit_its_scheme_has_no_value():
    tensors, _, _ = gptq()
    tensors["a.g_idx"][0] = 99
    assert dequantised(tensors)[1] is None
    tensors, _, _ = bitsandbytes_4bit()
    tensors["a.weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(b'{"shape": 3}'), dtype=torch.uint8)
    assert dequantised(tensors)[1] is None


def test_configuration():
    assert quantisation_configuration(json.dumps({"quantization_config": {"bits": 4}}).encode()) == {"bits": 4}
    assert quantisation_configuration(b'{"quantization": {"bits": 4}}') == {"bits": 4}
    for content in (None, b"{", b"[]", b'{"quantization_config": 4}'):
        assert quantisation_configuration(content) == {}


def test_codes_of_four_bits():
    assert FP4[7] == 6
    assert FP4[15] == -6


@pytest.mark.parametrize("scheme", OPAQUE)
def test_what_is_not_dequantised_is_recognised_with_all_that_scales_it(scheme):
    tensors = opaque(scheme, 1)
    (weight,) = find_quantised(infos(tensors | plain() | {"a.bias": torch.ones(8)}), {"quant_method": scheme})
    assert weight.scheme.name == scheme
    assert set(weight.members) == set(tensors)
    assert weight.dequantise(lambda name: as_array(tensors[name])) is None


def test_a_configuration_makes_no_codes_of_what_stands_alone():
    tensors = {"e.position_ids": torch.arange(9), "n.num_batches_tracked": torch.tensor(3), "n.weight": torch.ones(4)}
    assert find_quantised(infos(tensors), {"quant_method": "of tomorrow"}) == ()
    assert not needs_configuration(infos(tensors))
    assert needs_configuration(infos(opaque("of tomorrow", 1)))


def test_six_bits_are_not_four():
    """MXFP6 of compressed-tensors has MXFP4's names and data types: 24 bytes a scale instead of 16."""
    tensors = {
        "a.weight_packed": torch.zeros(4, 96, dtype=torch.uint8),
        "a.weight_scale": torch.zeros(4, 4, dtype=torch.uint8),
    }
    weight, value = dequantised(tensors)
    assert (weight.scheme.name, value) == ("mxfp6", None)
