"""The small immutable records of a store: base, layout, manifest, commit.

Each class mirrors one record of docs/format.md: ``to_record`` gives the JSON object that is stored, ``from_record`` reads
it strictly (an unknown field means a newer format and is refused), ``references`` names every object it needs, which is
what garbage collection and fsck walk. Nothing here reads storage or touches an array.
"""

from erestore.records.coefficients import Coefficient, format_coefficient, parse_coefficient
from erestore.records.commit import EDGES, LATEST, Commit, dropped_tensors, relative_error
from erestore.records.layout import Layout, LayoutFile, LayoutTensor, module_prefix, names_inside
from erestore.records.manifest import Manifest, Term, normal_terms
from erestore.records.parse import check_shape
from erestore.records.tensors import Base, Part, TensorRef, WholeTensor

__all__ = [
    "EDGES",
    "LATEST",
    "Base",
    "Coefficient",
    "Commit",
    "Layout",
    "LayoutFile",
    "LayoutTensor",
    "Manifest",
    "Part",
    "TensorRef",
    "Term",
    "WholeTensor",
    "check_shape",
    "dropped_tensors",
    "format_coefficient",
    "module_prefix",
    "names_inside",
    "normal_terms",
    "parse_coefficient",
    "relative_error",
]
