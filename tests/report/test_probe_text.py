"""Probes in words, in a notebook, and as figures."""

from dataclasses import replace
from itertools import zip_longest

import pytest
from probe_samples import WEIGHTS_ALONE, WHOLE

from erestore.errors import UsageError
from erestore.report.figures import allocation_figure, perturb_figure, stiefel_figure, truncate_figure
from erestore.report.probe_text import cosine_text, lost_text, probe_text

TEXT = """\
task</script><b> differs from base by 1.2 % of its norm, in 5 tensors matching '*atten*', 3 of them matrices.
Not finite, or beyond float32, and left as they are: bad�[31m.
Features are the model's last hidden state, of 12 inputs; without its residual, which makes it base, the cosine is 0.50000.

Every weight times exp(Z), Z normal with deviation sigma (seed 7)
sigma  weights: lost  weights: cosine  residual: lost  residual: cosine
0.1            20.0×          0.75000          1.00 %           1.00000
0.5         123,000×                -          30.0 %           0.98000

Every matrix approximated by a share of its rank
rank   weights: lost  weights: cosine  residual: lost  residual: cosine
100 %            0 %          1.00000             0 %           1.00000
50 %           999 %          0.25000          12.5 %           0.93750

Residual in the codec ere, prior rank 4, 3 bits, 3 layers: ranks by allocation, towards uniform as alpha grows
ranks      bytes  layers without    lost   cosine
uniform    1,200               0  50.0 %  0.87500
alpha 0    1,100               1  62.5 %  0.75000
alpha 0.5  1,190               0  37.5 %  0.93750

Residual in the codec ere, prior rank 4, alpha 0.5, 3 layers: with and without projection to Stiefel matrices
bits  bytes  projected: lost  projected: cosine  not projected: lost  not projected: cosine
2       800           75.0 %            0.62500               87.5 %                0.50000
4     1,190           37.5 %            0.93750               43.8 %                0.90625

lost: squared error"""


def test_everything_is_said():
    text = probe_text(WHOLE, width=None)
    for found, expected in zip_longest(text.splitlines()[: TEXT.count("\n")], TEXT.splitlines()[:-1]):
        assert found == expected
    assert text.endswith("mean over all inputs.")
    alone = probe_text(WEIGHTS_ALONE, width=None)
    assert "cosine" not in alone
    assert "ere" not in alone.replace("where", "")


def test_it_fits_a_terminal():
    for width in (60, 80, 120):
        assert all(len(line) <= width for line in probe_text(WHOLE, width=width).splitlines())


@pytest.mark.parametrize(
    ("lost", "text"),
    [
        (0, "0 %"),
        (1e-7, "< 0.001 %"),
        (0.00251, "0.251 %"),
        (9.99, "999 %"),
        (9.996, "10.0×"),
        (99.94, "99.9×"),
        (99.96, "100×"),
    ],
)
def test_losses_read_well(lost, text):
    assert lost_text(lost) == text


def test_cosines_have_five_decimals():
    assert [cosine_text(value) for value in (1.0, 0.9999949, -0.5, None)] == ["1.00000", "0.99999", "-0.50000", "-"]


def test_a_notebook_shows_the_same_numbers_escaped():
    html = WHOLE._repr_html_()
    assert html.count("<table>") == 4
    assert "</script>" not in html
    assert '<td style="text-align:right">123,000×</td>' in html
    assert WEIGHTS_ALONE._repr_html_().count("<table>") == 2


def drawn(figure):
    return {trace.meta: (list(trace.x), list(trace.y)) for trace in figure.data}


def test_figures_draw_the_cosines():
    assert drawn(perturb_figure(WHOLE)) == {
        "residual.cosine": ([0.1, 0.5], [0.999996, 0.98]),
        "weights.cosine": ([0.1, 0.5], [0.75, None]),
        "base.cosine": ([0.1, 0.5], [0.5, 0.5]),
    }
    assert perturb_figure(WHOLE).layout.xaxis.type == "log"
    assert drawn(truncate_figure(WHOLE)) == {
        "residual.cosine": ([1.0, 0.5], [1.0, 0.9375]),
        "weights.cosine": ([1.0, 0.5], [1.0, 0.25]),
        "base.cosine": ([1.0, 0.5], [0.5, 0.5]),
    }
    assert drawn(allocation_figure(WHOLE)) == {
        "ere.cosine": ([0.0, 0.5], [0.75, 0.9375]),
        "uniform.cosine": ([0.0, 0.5], [0.875, 0.875]),
    }
    assert drawn(stiefel_figure(WHOLE)) == {
        "projected.cosine": ([2, 4], [0.625, 0.9375]),
        "not-projected.cosine": ([2, 4], [0.5, 0.90625]),
    }


def test_figures_draw_errors_where_there_is_no_model_or_they_are_asked_for():
    assert drawn(truncate_figure(WEIGHTS_ALONE)) == {
        "residual.error": ([1.0, 0.5], [None, 0.125]),  # nothing lost has no logarithm
        "weights.error": ([1.0, 0.5], [None, 9.99]),
        "base.error": ([1.0, 0.5], [1.0, 1.0]),
    }
    assert drawn(truncate_figure(WEIGHTS_ALONE)) == drawn(truncate_figure(WHOLE, "error"))
    assert truncate_figure(WHOLE, "error").layout.yaxis.type == "log"
    assert drawn(stiefel_figure(WHOLE, "error"))["projected.error"] == ([2, 4], [0.75, 0.375])
    zero = replace(WHOLE, perturb=replace(WHOLE.perturb, points=(replace(WHOLE.perturb.points[0], sigma=0.0),)))
    assert perturb_figure(zero).layout.xaxis.type == "linear"
    many = tuple(replace(WHOLE.perturb.points[0], sigma=0.1 * number) for number in range(1, 13))
    assert perturb_figure(replace(WHOLE, perturb=replace(WHOLE.perturb, points=many))).layout.xaxis.tickvals is None


def test_what_was_not_probed_cannot_be_drawn():
    for draw, probe in ((allocation_figure, "allocation"), (stiefel_figure, "stiefel")):
        with pytest.raises(UsageError, match=f"'{probe}' was not run"):
            draw(WEIGHTS_ALONE)
    for draw in (perturb_figure, truncate_figure):
        with pytest.raises(UsageError, match="was not run"):
            draw(replace(WHOLE, perturb=None, truncate=None))
        with pytest.raises(UsageError, match="no cosine"):
            draw(WEIGHTS_ALONE, "cosine")
