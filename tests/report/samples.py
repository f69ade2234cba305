"""Results of a diff made by hand."""

from erestore.report.summary import summarise
from erestore.results.diff import Compared, DiffResult, TensorDiff

BLANK = {
    "shape": (8, 4),
    "shape_before": None,
    "dtype": "F32",
    "dtype_before": None,
    "status": "changed",
    "computed_from": "factors",
    "share": 0.0,
    "norm": 0.0,
    "norm_before": None,
    "relative_norm": 0.0,
    "effective_rank": None,
    "effective_rank_ratio": None,
    "full_rank": 4,
    "energy": {},
    "energy_in_tenth": None,
}


def tensor(name, **fields):
    return TensorDiff(**{"name": name, "key": name, **BLANK, **fields})


def side(name, **fields):
    known = {"commit": "0" * 64, "base": "base", "path": None, "exact": True, "relative_error": 0.0}
    return Compared(name, **{**known, **fields})


def result(tensors, spectra=None, a=None, b=None, **options):
    summary = summarise(tensors, spectra or {}, **{"same_base": True, **options})
    return DiffResult(a or side("old"), b or side("new"), tuple(tensors), summary)
