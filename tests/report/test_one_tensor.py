"""One tensor in words and as a plot."""

import dataclasses
import re

import pytest
from samples import result, side, tensor

from erestore.report.one_tensor import tensor_text
from erestore.report.plot import Curve, plot
from erestore.results.diff_details import Angles, Line, Spectrum, TensorDetails, TensorStorage

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
NAME = "bert.encoder.layer.3.output.dense.weight"
RANKS = (1, 2, 4, 8, 16, 32, 64)
SPECTRUM = Spectrum(
    ranks=RANKS,
    change=(1.0, 0.5, 0.25, 0.1, 0.01, 0.0, 0.0),
    base=(1.0, 0.9, 0.8, 0.6, 0.4, 0.2, 0.05),
    noise=(1.0, 0.98, 0.95, 0.9, 0.8, 0.6, 0.1),
    energy=(0.7, 0.9, 0.98, 0.999, 1.0, 1.0, 1.0),
    base_energy=(0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0),
)
DETAILS = TensorDetails(
    SPECTRUM,
    rows=(Line(7, 0.4, "[CLS]"), Line(1, 0.1)),
    columns=(Line(3, 0.02),),
    kept=TensorStorage(("gamma", "lowrank2"), 16, 12345, 3.25, 0.0123),
    angles=Angles(3, 4, (1.0, 0.5), (0.3,), 0.25, 0.2, -0.125),
)


def one(details=DETAILS, name=NAME, **fields):
    known = {
        "shape": (64, 128),
        "norm": 0.5,
        "norm_before": 5.0,
        "relative_norm": 0.1,
        "effective_rank": 5.55,
        "effective_rank_ratio": 0.25,
        "full_rank": 64,
    }
    found = result([tensor(name, **{**known, **fields})], b=side("new"))
    return dataclasses.replace(found, details={name: details} if details else {})


def test_all_that_is_known_of_a_tensor():
    assert (
        tensor_text(one(), width=None)
        == """\
bert.encoder.layer.3.output.dense.weight [64×128] F32: MLP down, layer 3
From old to new it moved by 10 % of its norm (0.5 of 5); effective rank 5.5/64, 0.25 times the base's. \
This is from the stored factors.

rank                         1     4     16
energy of the difference  70 %  98 %  100 %
energy of the base        10 %  40 %   80 %

    1 ┤●●●○○○○○○○○○○○○○························
      │   ●●●●●        ○○○○○○○○○○○○○○○○○       ················
      │        ●●●●●                    ○○○○○○○○○              ·····
      │             ●●●●●                        ○○○○○○○            ··
      │                  ●●●●●                          ○○○○○         ··
      │                       ●●●●                           ○○○○○      ··
      │                           ●●●                             ○○○     ··
      │                              ●●●●                            ○○     ··
  0.1 ┤                                  ●●●                           ○○○    ·
      │                                     ●                             ○○
      │                                      ●●                             ○○○
      │                                        ●
      │                                         ●●
      │                                           ●
      │                                            ●●
      │                                              ●
 0.01 ┤                                               ●
      └────────────────────────────────────────────────────────────────────────
       1           2           4           8          16          32         64
       ● difference  ○ base  · noise (Marchenko-Pastur)
Singular values, each over its largest, against rank; both axes are logarithmic.

Rows that moved most: 7 '[CLS]' (40 %), 1 (10 %); evenly 1.6 % each.
Columns that moved most: 3 (2.0 %); evenly 0.78 % each.
Both changed it: their leading directions (ranks 3 and 4) coincide by 62 % (by chance 25 %), cosine -0.12.
Stored as gamma + lowrank2, rank 16, 12,345 bytes, 3.2 bits an element, relative error 0.012."""
    )


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_lines_fit_the_width(width):
    for color in (False, True):
        text = tensor_text(one(), width=width, color=color)
        assert bool(ESCAPE.search(text)) == color
        assert max(len(line) for line in ESCAPE.sub("", text).splitlines()) <= width
    assert ESCAPE.sub("", text) == tensor_text(one(), width=width)


def test_rows_that_moved_evenly_are_not_named():
    even = dataclasses.replace(DETAILS, rows=(Line(1, 2 / 64),), columns=(), kept=None, angles=None)
    assert "Rows" not in tensor_text(one(even))
    assert "Rows" in tensor_text(one(dataclasses.replace(even, rows=(Line(1, 2.1 / 64),))))


def test_a_base_of_another_shape_has_no_curve():
    text = tensor_text(
        one(dataclasses.replace(DETAILS, spectrum=dataclasses.replace(SPECTRUM, base=None, base_energy=None)))
    )
    assert "○" not in text
    assert "energy of the base" not in text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "added", "norm": None}, "It is only in new."),
        ({"status": "removed", "norm": None}, "It is only in old."),
        ({"status": "unchanged", "norm": 0.0}, "It is the same in both."),
        ({"status": "retyped", "norm": 0.0, "dtype_before": "BF16"}, "Its values are the same in both."),
        ({"status": "reshaped", "norm": None}, "It has another shape, and is not compared."),
        ({"status": "replaced", "norm": None}, "It differs, but not by numbers that could be compared."),
    ],
)
def test_tensors_without_a_difference_in_numbers(fields, expected):
    lines = tensor_text(one(None, **fields)).splitlines()
    assert lines[1:] == [expected]
    assert ("BF16 → F32" in lines[0]) == ("dtype_before" in fields)


def test_a_vector_and_grown_rows():
    vector = tensor_text(
        one(TensorDetails(None, (), (), None, None), shape=(64,), effective_rank=None, effective_rank_ratio=None)
    )
    assert vector.splitlines()[1:] == [
        "From old to new it moved by 10 % of its norm (0.5 of 5). This is from the stored factors."
    ]
    grown = tensor_text(one(status="resized", shape_before=(60, 128), computed_from="values"), width=None)
    assert "[60×128 → 64×128]" in grown
    assert "in the rows that both have;" in grown
    assert "from the values of both." in grown


def test_names_from_elsewhere_cannot_steer_a_terminal():
    details = dataclasses.replace(DETAILS, rows=(Line(7, 0.4, "\x1b[2J"),))
    text = tensor_text(one(details, name="a\x1b[31m\nb"))
    assert "\x1b" not in text


def curve(x, y):
    return Curve("c", "*", 33, x, y)


def test_a_curve_between_its_points():
    found = curve((1, 4, 16), (1.0, 0.25, 0.0))
    assert found.at(1) == 1
    assert found.at(2) == pytest.approx(0.5)
    assert found.at(4) == pytest.approx(0.25)
    assert (found.at(5), found.at(16), found.at(17)) == (0, 0, 0)


def test_the_first_curve_is_in_front():
    lines = list(plot([curve((1, 2), (1.0, 0.1)), Curve("d", "o", 1, (1, 2), (1.0, 1.0))], 40))
    assert lines[0].startswith("    1 ┤*")
    assert "o" in lines[0]
    assert lines[-1] == "       * c  o d"
    assert lines[-2] == "       1" + " " * 30 + "2"


def test_a_plot_of_one_rank():
    assert next(iter(plot([curve((1,), (1.0,))], 40))) == "    1 ┤" + "*" * 32


@pytest.mark.parametrize(("smallest", "last_label"), [(0.5, "1"), (0.1, "0.1"), (1e-3, "0.001"), (1e-9, "1e-6")])
def test_the_axis_reaches_as_far_as_the_values_but_not_for_ever(smallest, last_label):
    lines = list(plot([curve((1, 8), (1.0, smallest))], 60))
    labels = [line.split("┤")[0].strip() for line in lines if "┤" in line]
    assert labels[-1] == last_label
    assert len(lines) <= 22


@pytest.mark.parametrize("last", [1, 2, 3, 7, 64, 256, 384, 768, 5000])
@pytest.mark.parametrize("width", [24, 40, 80])
def test_ranks_on_the_axis_are_apart(last, width):
    ruler = list(plot([curve((1, max(2, last)), (1.0, 0.1))], width))[-2]
    numbers = [int(text) for text in ruler.split()]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == max(2, last)
    assert len(ruler) <= width
