"""Linear combinations of variants as manifests: nothing of a tensor is read.

``base + sum(c_i * (variant_i - base))`` has the variants' terms with multiplied coefficients. Tensors that are held whole
have no base to be a difference from, and are combined where that means something, else they are a conflict:

* a head that all variants have, in one shape and with one map of labels, is combined like everything else (one that the
  base has as well, where the maps agree of those that change it);
* what only some of the variants have is taken if their coefficients sum to 1, since a scaled head is not a head;
* rows that were added to a vocabulary likewise, where the vocabularies agree;
* codes of quantised weights go with their scales: one variant's, or in conflict;
* other tensors of integers are equal or in conflict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erestore.algebra.chosen_tensors import ChosenTensors
from erestore.algebra.conflicts import Conflicts
from erestore.algebra.labelled_heads import decide_labelled_heads
from erestore.algebra.operands import Combined, Operand, each_once, require_one_base
from erestore.algebra.presence import find_presence
from erestore.algebra.quantised_values import QuantisedValues
from erestore.algebra.result_layout import ResultLayout
from erestore.algebra.side_weights import SideWeights
from erestore.algebra.sums import sum_terms
from erestore.algebra.whole_tensors import WholeTensors
from erestore.errors import Conflict
from erestore.records import Layout, Manifest
from erestore.storage.canonical import dump_canonical
from erestore.storage.frames import is_oid, record_oid
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult


@dataclass(frozen=True)
class Combination:
    """What came out.

    Attributes
    ----------
    manifest : Manifest
        Its `layout` is stored only if it is an operand's.
    layout : Layout
    equals : str or None
        Commit of the operand whose linear value this is; then the manifest is that operand's, exact remainder included.
    exact, loses_exact : tuple of str
        Names of operands that have exact remainders, and of those whose exact remainders do not apply to the result.
    chosen : tuple of Conflict
        What was decided by `choose`.
    notes : tuple of str
        Sentences about what was resolved without being a conflict.
    written : PutResult or None
        Where tensors had to be stored whole that are one operand's, as chosen.
    """

    manifest: Manifest
    layout: Layout
    equals: str | None
    exact: tuple[str, ...]
    loses_exact: tuple[str, ...]
    chosen: tuple[Conflict, ...]
    notes: tuple[str, ...] = ()
    written: PutResult | None = None


def combine(objects: ObjectStore, operands: Sequence[Operand], choose: str | None = None) -> Combination:
    """Combine variants linearly.

    Parameters
    ----------
    objects : ObjectStore
        Records are read, and JSON side files where they differ.
    operands : sequence of Operand
        At least one; a commit may come more than once.
    choose : str, optional
        One of :data:`erestore.algebra.conflicts.CHOICES`.

    Raises
    ------
    CombinationError
        If the variants have different bases, or there are conflicts and nothing is chosen; it lists them.
    """
    require_one_base(operands)
    summed = each_once(operands)
    remaining = [operand for operand in summed if operand.coefficient] or summed[:1]
    conflicts = Conflicts([operand.name for operand in remaining], choose)
    selection = ChosenTensors(Combined(objects, remaining))
    manifest, layout = _result(selection, conflicts)
    conflicts.require_none()
    commits = (operand for operand in summed if is_oid(operand.commit))  # not parts of commits
    equal = next((operand for operand in commits if _same_value(operand.manifest, manifest)), None)
    if equal is not None:
        manifest = equal.manifest
    exact = tuple(operand.name for operand in remaining if operand.manifest.patch)
    commit = equal.commit if equal else None
    return Combination(
        manifest,
        layout,
        commit,
        exact,
        () if equal else exact,
        tuple(conflicts.found),
        tuple(conflicts.notes),
        selection.written,
    )


def layout_oid(layout: Layout) -> str:
    """Return the oid that a layout has once it is stored."""
    return record_oid("layout", dump_canonical(layout.to_record()))


def _result(selection: ChosenTensors, conflicts: Conflicts) -> tuple[Manifest, Layout]:
    combined = selection.combined
    quantised = QuantisedValues(combined, conflicts, selection)
    side_weights = SideWeights(combined, conflicts)
    heads = decide_labelled_heads(combined, conflicts, selection)
    tensors = WholeTensors(combined, conflicts, side_weights, selection, quantised.keys)
    dense, rows = tensors.dense() | quantised.parts(), tensors.rows()
    present, others = find_presence(combined, conflicts, selection)
    from_one = {**heads, **others, **selection.store()}
    dense, rows = dense | from_one, {key: parts for key, parts in rows.items() if key not in from_one}
    primary, layout = ResultLayout(combined, conflicts, dense, rows, present).find()
    layout = side_weights.put_into(layout)
    side_weights.note_others(primary, layout)
    named = {tensor.key for tensor in layout.tensors.values()}
    dense, rows = (
        {key: parts for key, parts in parts_by_key.items() if key in named} for parts_by_key in (dense, rows)
    )
    oid = primary.manifest.layout if layout == combined.layout(primary) else layout_oid(layout)
    return Manifest(primary.manifest.base, sum_terms(combined.operands), oid, dense, rows), layout


def _same_value(one: Manifest, two: Manifest) -> bool:
    return (one.base, one.terms, dict(one.dense), dict(one.rows), one.layout) == (
        two.base,
        two.terms,
        dict(two.dense),
        dict(two.rows),
        two.layout,
    )
