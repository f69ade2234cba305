"""The layers as a heat strip, and kinds with bars: what is drawn for differences made by hand."""

import re

import pytest
import torch
from samples import result, tensor

from erestore.report import diff_text
from erestore.report.kinds import ChangeNorms, by_kind
from erestore.report.stat import stat
from erestore.report.strip import LEVELS, Scale, strip

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
KINDS = {
    "attention.self.query": 0.1,
    "attention.output.dense": 0.2,
    "intermediate.dense": 0.4,
    "output.dense": 0.8,
    "output.LayerNorm": 0.001,
}


def moved(name, relative, before=10.0, **fields):
    known = {"share": 0.1, "norm": relative * before, "norm_before": before, "relative_norm": relative}
    return tensor(name, **{**known, **fields})


def model(layers, growth=1.0):
    """A BERT whose kinds moved by what is above, in each layer `growth` times as much as in the one before."""
    tensors = [
        moved(f"encoder.layer.{depth}.{kind}.{what}", relative * growth**depth)
        for depth in range(layers)
        for kind, relative in KINDS.items()
        for what in ("weight", "bias")
    ]
    tensors += [moved("embeddings.word_embeddings.weight", 0.05), moved("pooler.dense.weight", 4.8)]
    whole = sum(t.norm**2 for t in tensors)
    return [
        tensor(t.name, norm=t.norm, norm_before=10.0, relative_norm=t.relative_norm, share=t.norm**2 / whole)
        for t in tensors
    ]


def lines(layers, width=None, growth=1.0, **options):
    return list(strip(by_kind(model(layers, growth)), width, **options))


def test_a_row_a_kind_and_a_digit_a_layer():
    assert lines(3, growth=0.5) == [
        "layer             0      moved",
        "attention query   311    6.6 %",
        "attention output  531     13 %",
        "MLP up            753     26 %",
        "MLP down          975     53 %",
        "norm              111  0.066 %",
        "Scale: 1 ≤ 5.0 % of the norm, 9 ≤ 80 %, 1.4× per step.",
    ]


def test_blocks_in_colour_say_the_same_as_digits():
    drawn = lines(3, growth=0.5, color=True)
    assert drawn[0] == "layer             0         moved"
    assert drawn[1] == "attention query   \x1b[38;5;31m██\x1b[39m\x1b[38;5;54m████\x1b[39m    6.6 %"
    assert [ESCAPE.sub("", line) for line in drawn][1:3] == [
        "attention query   ██████    6.6 %",
        "attention output  ██████     13 %",
    ]
    assert ESCAPE.sub("", drawn[-1]) == "Scale: ≤ 5.0 % of the norm █████████ ≤ 80 %, 1.4× per step."
    assert len(ESCAPE.findall(drawn[-1])) == 2 * LEVELS


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
@pytest.mark.parametrize("layers", [1, 6, 24, 48, 96])
def test_lines_fit_the_width(layers, width, color):
    drawn = [ESCAPE.sub("", line) for line in lines(layers, width, 1.02, color=color)]
    assert max(map(len, drawn)) <= width
    rows = [re.search(r"  ([█0-9.]+)  ", line)[1] for line in drawn[1:6]]
    assert len({len(row) for row in rows}) == 1
    room = width - max(map(len, drawn[:6])) + len(rows[0])
    each = int(re.search(r"A\s+column\s+is\s+(\d+)\s+layers", " ".join(drawn))[1]) if "column" in "".join(drawn) else 1
    columns = -(-layers // each)
    assert len(rows[0]) in (columns, 2 * columns)
    assert each == 1 or -(-layers // (each - 1)) > room
    assert len(rows[0]) == columns or color


def test_the_ruler_says_which_layers_are_where():
    ruler = lines(24, 80)[0]
    start = len("attention output  ")
    assert all(ruler[start + depth :].startswith(str(depth)) for depth in (0, 5, 10, 15, 20))
    merged = lines(96, 80)[0]
    assert all(merged[start + depth // 2 :].startswith(str(depth)) for depth in (0, 10, 50, 90))
    wide = lines(12, 80, color=True)[0]
    assert all(wide[start + 2 * depth :].startswith(str(depth)) for depth in (0, 5, 10))


def test_layers_that_are_merged_count_by_their_norms():
    tensors = [moved(f"h.{depth}.mlp.c_fc.weight", relative) for depth, relative in enumerate([0.3, 0.4, 0.0, 0.0])]
    narrow = list(strip(by_kind(tensors), 17))
    assert narrow[1].split()[-2:] == ["35", "%"]
    assert " 9." in narrow[1]  # two layers a column: sqrt((.3² + .4²) / 2), and what did not move


def test_what_did_not_move_and_what_is_not_there():
    tensors = [
        moved("h.0.mlp.c_fc.weight", 0.1),
        tensor("h.1.mlp.c_fc.weight", status="unchanged", norm=0.0, relative_norm=0.0),
        moved("h.2.mlp.c_fc.weight", 0.1),
        moved("h.1.attn.c_attn.weight", 0.1),
        tensor("h.3.attn.c_attn.weight", status="added", norm=None),
    ]
    assert list(strip(by_kind(tensors), None)) == [
        "layer          0    moved",
        "attention qkv   9    10 %",
        "MLP up         9.9   10 %",
        "Scale: 1 ≤ 2.5 % of the norm, 9 ≤ 10 %, 1.2× per step. . did not change.",
    ]
    assert list(strip(by_kind([tensors[1]]), None)) == []
    assert list(strip(by_kind([moved("fc1.weight", 0.1)]), None)) == []


def test_what_grew_from_nothing():
    tensors = [moved("h.0.mlp.c_fc.weight", float("inf"), before=0.0, norm=1.0)]
    assert list(strip(by_kind(tensors), None))[1:] == ["MLP up  9      ∞", "9 grew from nothing."]
    beside = [*tensors, moved("h.1.mlp.c_fc.weight", 0.1), moved("h.2.mlp.c_fc.weight", 0.02)]
    assert list(strip(by_kind(beside), None))[1].startswith("MLP up  991")


def test_numbers_that_are_no_depth_of_a_model():
    drawn = list(strip(by_kind([moved("layers.0.fc1.weight", 0.1), moved("layers.999999.fc1.weight", 0.1)]), None))
    assert max(map(len, drawn)) < 450
    assert "A column is 2,500 layers." in drawn[-1]
    assert list(strip(by_kind([moved("h.0.x.weight", 0.1)]), None))[:2] == ["layer  0  moved", "x      9   10 %"]


def test_encoder_and_decoder_have_rows_of_their_own():
    tensors = [
        moved("decoder.block.0.layer.0.SelfAttention.q.weight", 0.4),
        moved("decoder.block.0.layer.1.EncDecAttention.q.weight", 0.2),
        moved("encoder.block.1.layer.0.SelfAttention.q.weight", 0.1),
    ]
    drawn = list(strip(by_kind(tensors), None))
    assert [line.split("  ")[0] for line in drawn[1:4]] == [
        "encoder attention query",
        "decoder attention query",
        "decoder cross-attention query",
    ]


def test_of_very_many_kinds_those_with_least_are_named_only():
    tensors = [moved(f"layers.0.part{number}.weight", 0.1, share=number / 1000) for number in range(40)]
    drawn = list(strip(by_kind(tensors), None))
    assert len(drawn) == 1 + 24 + 1 + 1
    assert drawn[-1] == "Not shown, as they hold least of the change: part15, part14, part13 and 13 more."


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ([(0.1, 1), (0.1, 1)], 0.025, 0.1),
        ([(0.01, 1), (0.1, 1)], 0.01, 0.1),
        ([(10, 1), (5, 1e6)], 0.01, 10),
        ([(0.001, 1), (0.1, 1), (0.1, 1)], 0.025, 0.1),  # the first has 1/20000 of the change
        ([(0.1, 0), (0, 1)], 0, 0),
        ([], 0, 0),
    ],
)
def test_the_scale_spans_what_matters(cells, low, high):
    scale = Scale.of(ChangeNorms(*cell) for cell in cells)
    assert (scale.low, scale.high) == (pytest.approx(low), pytest.approx(high))


def test_levels():
    scale = Scale(0.01, 2.56)
    assert [scale.level(0.01 * 2**power) for power in range(-2, 11)] == [1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9]
    assert (scale.level(0.0), scale.level(float("inf"))) == (0, 9)


def test_a_bar_a_kind():
    assert list(stat(by_kind(model(3, 0.5)), 70)) == [
        "kind              changed      share    moved",
        "pooler                1/1       91 %    480 %  ███████████████████████",
        "MLP down              6/6      6.6 %     53 %  █▋",
        "MLP up                6/6      1.7 %     26 %  ▍",
        "attention output      6/6     0.42 %     13 %  ▏",
        "attention query       6/6     0.10 %    6.6 %  ▏",
        "word embeddings       1/1   0.0099 %    5.0 %  ▏",
        "norm                  6/6  < 0.001 %  0.066 %  ▏",
    ]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("share", ["MLP up", "head", "word embeddings"]),
        ("norm", ["head", "word embeddings", "MLP up"]),
        ("erank", ["word embeddings", "MLP up", "head"]),
        ("energy", ["head", "MLP up", "word embeddings"]),
        ("name", ["word embeddings", "MLP up", "head"]),
    ],
)
def test_kinds_are_sorted_as_tensors_are(sort, order):
    fields = [
        ("h.0.mlp.c_fc.weight", 0.1, {"share": 0.8, "effective_rank": 3.0, "energy_in_tenth": 0.5}),
        ("lm_head.weight", 0.9, {"share": 0.15, "effective_rank": 1.0, "energy_in_tenth": 0.9}),
        ("wte.weight", 0.5, {"share": 0.05, "effective_rank": 9.0, "energy_in_tenth": 0.1}),
        ("wpe.weight", 0.0, {"share": 0.0}),
    ]
    kinds = by_kind([moved(name, relative, **more) for name, relative, more in fields])
    assert [line.split("  ")[0] for line in list(stat(kinds, None, sort))[1:]] == order


@pytest.mark.parametrize("width", [40, 60, 100])
def test_bars_fit_the_width(width):
    drawn = list(stat(by_kind(model(3)), width))
    assert max(map(len, drawn)) <= width
    assert "█" in drawn[1]


def test_a_kind_sums_up_its_tensors():
    (kind,) = by_kind(
        [
            moved("h.0.mlp.c_fc.weight", 0.3, share=0.6, effective_rank_ratio=0.5, energy_in_tenth=0.5),
            moved("h.1.mlp.c_fc.weight", 0.4, share=0.2, effective_rank_ratio=0.9, energy_in_tenth=0.9),
            tensor("h.2.mlp.c_fc.bias", status="unchanged"),
        ]
    )
    assert (kind.kind, kind.tensors, kind.changed, kind.effective_rank_ratio) == ("MLP up", 3, 2, 0.5)
    assert kind.share == pytest.approx(0.8)
    assert kind.relative_norm == pytest.approx((0.5 * (0.3**2 + 0.4**2)) ** 0.5)
    assert kind.energy_in_tenth == pytest.approx(0.6)
    assert {depth: norms.relative for depth, norms in kind.norms.items()} == pytest.approx({0: 0.3, 1: 0.4, 2: 0.0})


def test_the_whole_report():
    found = result(model(3, 0.5), {"pooler.dense.weight": torch.ones(4)})
    text = diff_text(found, width=60, limit=2)
    assert text.split("\n\n")[1].splitlines()[-1] == "Outside the layers: word embeddings 5.0 %, pooler 480 %."
    assert [block.split(" ")[0] for block in text.split("\n\n")] == ["new", "layer", "tensor", "share:"]
    kinds = diff_text(found, width=60, by_kinds="share")
    assert [block.split(" ")[0] for block in kinds.split("\n\n")] == ["new", "layer", "kind", "share:"]
    assert "encoder.layer" not in kinds
    assert max(map(len, (text + "\n" + kinds).splitlines())) <= 60
    assert not ESCAPE.search(text)
    assert ESCAPE.search(diff_text(found, width=60, color=True))


def test_names_from_elsewhere_cannot_steer_a_terminal():
    text = diff_text(result([moved("layers.0.a\x1b[31mb.weight", 0.5)]), color=True)
    assert "\x1b[31m" not in text
    assert "a\N{REPLACEMENT CHARACTER}[31mb" in text
