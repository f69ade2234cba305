"""What a person reads."""

import math
import subprocess
import sys

import pytest
import torch
from samples import result, side, tensor

from erestore.report import diff_text
from erestore.report.columns import Column, shorten, table
from erestore.report.words import listed, percent, plural, rank_text, ratio_text
from erestore.results.diff import FileChange, LayoutChange


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (None, 2, "-"),
        (0.0, 2, "0 %"),
        (0.2354, 2, "24 %"),
        (0.2171, 3, "21.7 %"),
        (0.0995, 2, "10 %"),
        (0.0483, 2, "4.8 %"),
        (0.000312, 2, "0.031 %"),
        (0.000000312, 2, "< 0.001 %"),
        (4.828, 2, "483 %"),
        (4.828, 3, "483 %"),
        (123.4, 2, "12340 %"),
        (1.0, 2, "100 %"),
        (0.9996, 3, "100 %"),
        (math.inf, 2, "∞"),
    ],
)
def test_percent(value, digits, expected):
    assert percent(value, digits) == expected


def test_other_numbers():
    assert [ratio_text(value) for value in (None, 0.914, 0.0174, 1.0, 12.3, 0.0)] == [
        "-",
        "0.91",
        "0.017",
        "1.0",
        "12",
        "0",
    ]
    assert [rank_text(*pair) for pair in ((None, 4), (93.65, 256), (5.98, 384), (9.96, 64))] == [
        "-",
        "94/256",
        "6.0/384",
        "10/64",
    ]
    assert (plural(1, "tensor"), plural(1200, "tensor")) == ("1 tensor", "1,200 tensors")
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcde")) == "a, b, c and 2 more"


@pytest.mark.parametrize("width", range(12))
def test_names_are_cut_in_the_middle(width):
    cut = shorten("encoder.layer.11.output.dense.weight", width)
    assert len(cut) == width
    assert width < 4 or (cut.startswith("e") == (width > 5) and cut.endswith("ht"))
    assert shorten("abc", 3) == "abc"


def test_a_table_leaves_out_the_least_important_columns_first():
    columns = [
        Column("name", ["a.very.long.name.of.some.tensor.weight", "b"], drop=0, right=False),
        Column("one", ["1", "22"], drop=2),
        Column("two", ["3", "4"], drop=1),
        Column("three", ["5", "6"], drop=2),
        Column("kept", ["7", "8"], drop=0),
    ]
    wide = list(table(columns, None))
    assert wide[0].split() == ["name", "one", "two", "three", "kept"]
    assert wide[2].split() == ["b", "22", "4", "6", "8"]
    assert len({len(line) for line in wide}) == 1
    assert list(table(columns, len(wide[0]))) == wide
    assert next(table(columns, len(wide[0]) - 6)).split() == ["name", "one", "two", "kept"]
    assert next(table(columns, len(wide[0]) - 12)).split() == ["name", "two", "kept"]
    assert next(table(columns, len(wide[0]) - 20)).split() == ["name", "kept"]
    narrow = list(table(columns, 20))
    assert all(len(line) <= 20 for line in narrow)
    assert narrow[1].split() == ["a.…nsor.weight", "7"]


def moved(name, share, moved_by, **fields):
    spectral = {
        "effective_rank": 2.5,
        "effective_rank_ratio": 0.7,
        "energy_in_tenth": 0.4,
        "energy": {1: 0.4, 2: 0.8, 4: 1.0},
    }
    return tensor(name, share=share, norm=share**0.5, norm_before=2.0, relative_norm=moved_by, **spectral, **fields)


def test_the_summary_in_words():
    tensors = [
        moved("pooler.weight", 0.7, 4.8),
        moved("layer.weight", 0.3, 0.1),
        tensor("bias", status="unchanged"),
        tensor("head.weight", status="added", shape=(3, 8), norm=None, share=None),
        tensor("cls.bias", status="removed", shape=(8,), norm=None, share=None),
        tensor("adapter.weight", status="added", norm=None, share=None),
        tensor("positions", status="resized", shape=(6, 4), shape_before=(8, 4)),
        tensor("word", status="resized", shape=(9, 4), shape_before=(8, 4), dtype="BF16", dtype_before="F32"),
    ]
    spectra = {"pooler.weight": torch.tensor([1.0, 1, 1, 1]), "layer.weight": torch.tensor([3.0, 2, 1, 0])}
    found = result(
        tensors,
        spectra,
        b=side("new", exact=False, relative_error=0.0099),
        layout=(LayoutChange("format", "torch", "safetensors"),),
        side_files=(
            FileChange("config.json", "changed", {"labels": (2, 50), "names": (["a"], ["b" * 99]), "x": (None, 1)}),
            FileChange("tokenizer.json", "changed", {}),
            FileChange("vocab.txt", "changed"),
            FileChange("merges.txt", "removed"),
        ),
    )
    assert diff_text(found, width=None).split("\n\n")[0].split("\n") == [
        "new differs from old in 4 of 5 tensors, by 35.4 % of their norm.",
        "70 % of the change is in pooler.weight, which moved by 4.8 times its norm.",
        "Half of the rest lies in 25 % of the ranks, 90 % in 50 %; its effective rank is 0.70 times the base's.",
        "Head only in new: head.weight [3×8].",
        "Head only in old: cls.bias [8].",
        "Tensors only in new: adapter.weight [8×4].",
        "2 rows fewer: positions [8×4 → 6×4]; compared where both have them.",
        "1 row more: word [8×4 → 9×4]; compared where both have them.",
        "1 tensor is BF16 instead of F32.",
        "Format: torch → safetensors.",
        "Files only in old: merges.txt.",
        'config.json: labels 2 → 50; names ["a"] → ["bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb…; adds x.',
        "tokenizer.json has the same values, written differently.",
        "vocab.txt differs.",
        "new keeps 99.0 % of its own change (relative error 0.0099).",
    ]


def test_a_change_that_is_spread():
    tensors = [moved(f"layer.{number}", 0.1, 0.1) for number in range(10)]
    text = diff_text(result(tensors, {t.name: torch.ones(4) for t in tensors}), width=None, limit=4)
    assert (
        "The 5 tensors that moved most hold 50 % of the change.\nHalf of the change lies in 50 % of the ranks" in text
    )
    assert "\nand 6 more, with 60 % of the change\n" in text
    assert "layer.3" in text
    assert "layer.4" not in text
    assert "layer.9" in diff_text(result(tensors), limit=None)


def test_one_tensor_is_all():
    text = diff_text(result([moved("a", 1.0, 0.5)], {"a": torch.ones(4)}), width=None)
    assert "\nAll of the change is in a.\nHalf of it lies in 50 % of the ranks" in text


def test_nothing_differs():
    still = [tensor("a", status="unchanged"), tensor("b", status="unchanged")]
    assert diff_text(result(still)) == "new and old are identical: 2 tensors."
    assert diff_text(result(still[:1], pattern="a*")) == "new and old are identical: 1 tensor matching 'a*'."
    other = result(still, side_files=(FileChange("vocab.txt", "changed"),))
    assert diff_text(other) == "new has the same values as old in 2 tensors.\nvocab.txt differs."


def test_nothing_in_common():
    found = result([tensor("a", status="added", norm=None, share=None)], same_base=False, b=side("./ft", path="./ft"))
    assert diff_text(found).split("\n") == [
        "./ft and old have no tensors in common.",
        "Tensors only in ./ft: a [8×4].",
        "The files at ./ft are not in the store: whole values were compared.",
    ]


def test_other_bases_are_said():
    found = result([moved("a", 1.0, 0.5)], same_base=False, a=side("x", base="one"), b=side("y", base="two"))
    assert "They have different bases (one and two): whole values were compared." in diff_text(found, width=None)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_lines_fit_the_width(width):
    tensors = [moved(f"encoder.layer.{number}.attention.output.dense.weight", 0.1, 0.1) for number in range(10)]
    tensors.append(tensor("h", status="added", norm=None, share=None))
    text = diff_text(result(tensors, {t.name: torch.ones(4) for t in tensors[:10]}), width=width)
    assert max(map(len, text.split("\n"))) <= width
    assert all(f"{number}.attention" in text for number in range(10)) == (width > 40)


def test_vectors_need_no_spectral_columns():
    vector = tensor("bias", shape=(7,), share=1.0, norm=1.0, norm_before=2.0, relative_norm=0.5, full_rank=1)
    text = diff_text(result([vector]), width=None)
    assert "rank" not in text
    assert "bias        7  100 %   50 %" in text


def test_names_from_elsewhere_cannot_steer_a_terminal():
    text = diff_text(result([moved("a\x1b[31m\nb", 1.0, 0.5)]), width=None)
    assert "\x1b" not in text
    assert "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b" in text


def test_text_needs_no_heavy_library():
    code = "import sys, erestore.report; print({'torch', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
