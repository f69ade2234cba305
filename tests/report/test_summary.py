"""Where a change is: hand-made cases, and brute force."""

import math

import pytest
import torch
from samples import tensor

from erestore.report.summary import outstanding, rank_shares, relative, summarise, top_shares, weighted_median
from erestore.results.diff import FileChange, Share


def shares(*values):
    return [Share(str(number), value) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), 0),
        ((1.0,), 0),
        ((0.7, 0.3), 1),
        ((0.24, 0.04, 0.03, 0.03, 0.03), 1),
        ((0.4, 0.35, 0.02, 0.01, 0.01), 2),
        ((0.5, 0.2, 0.09, 0.05, 0.01), 2),
        ((0.09, 0.01, 0.01, 0.01, 0.01), 0),
        ((0.2, 0.19, 0.18, 0.17, 0.16), 0),
        ((0.12, 0.07, 0.06, 0.05, 0.04), 0),
    ],
)
def test_what_stands_out(values, expected):
    top = shares(*values)
    assert outstanding(top) == tuple(top[:expected])


def test_the_tensors_with_the_largest_shares():
    tensors = [
        tensor(f"t{number}", share=share) for number, share in enumerate([0.1, 0.3, None, 0.0, 0.2, 0.15, 0.12, 0.05])
    ]
    assert [share.name for share in top_shares(tensors)] == ["t1", "t4", "t5", "t6", "t0"]


@pytest.mark.parametrize(
    ("weighted", "expected"),
    [
        ([], None),
        ([(None, 1.0)], None),
        ([(3.0, 0.0)], None),
        ([(0.5, 1.0)], 0.5),
        ([(0.9, 0.1), (0.2, 0.3), (0.5, 0.3), (None, 5.0)], 0.5),
        ([(1.0, 0.6), (0.1, 0.2), (0.2, 0.2)], 1.0),
    ],
)
def test_weighted_median(weighted, expected):
    assert weighted_median(weighted) == expected


def test_rank_shares_are_the_fewest_ranks_that_hold_so_much():
    spectra = [torch.tensor([4.0, 2.0, 1.0, 0.0]), torch.tensor([3.0, 0.5])]
    # Squares in order: 16, 9, 4, 1, .25, 0 of 30.25.
    assert rank_shares(spectra, (0.5, 0.53, 0.9, 1.0)) == [1 / 6, 2 / 6, 3 / 6, 5 / 6]
    assert rank_shares([], (0.5,)) == [None]
    assert rank_shares([torch.zeros(3)], (0.5,)) == [None]


def test_relative_sizes():
    assert (relative(0, 0), relative(3, 4), relative(1, 0)) == (0, 0.75, math.inf)


def test_the_summary_leaves_out_what_stands_out():
    tensors = [
        tensor("big", norm=3.0, norm_before=1.0, share=0.9, effective_rank_ratio=0.1),
        tensor("small", norm=1.0, norm_before=7.0, share=0.1, effective_rank_ratio=0.8),
        tensor("still", status="unchanged"),
        tensor("longer", status="resized", norm_before=5.0),
        tensor("head", status="added", norm=None, share=None),
    ]
    spectra = {"big": torch.tensor([3.0, 0, 0, 0]), "small": torch.tensor([0.6, 0.6, 0.4, 0.3])}
    summary = summarise(tensors, spectra, same_base=True)
    assert summary.norm == pytest.approx(math.sqrt(10))
    assert summary.relative_norm == pytest.approx(math.sqrt(10 / 50))
    assert summary.outstanding == (Share("big", 0.9),)
    assert summary.effective_rank_ratio == 0.8
    assert (summary.rank_share_for_half, summary.rank_share_for_ninety) == (0.5, 0.75)
    assert summary.counts == {"added": 1, "changed": 2, "resized": 1, "unchanged": 1}
    assert summary.tensors == 5
    assert not summary.identical


def test_identical_means_everything():
    still = [tensor("still", status="unchanged")]
    assert summarise(still, {}, same_base=True).identical
    assert not summarise(still, {}, same_base=True, side_files=(FileChange("a", "added"),)).identical
    assert not summarise([tensor("a", status="retyped")], {}, same_base=True).identical
