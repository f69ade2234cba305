"""Linear combinations of variants as manifests: nothing of a tensor is read.

``base + sum(c_i * (variant_i - base))`` has the variants' terms with multiplied coefficients. Tensors that are held whole
have no base to be a difference from, and are combined where that means something, else they are a conflict:

* a head that all variants have, in one shape and with one map of labels, is combined like everything else;
* what only some of the variants have is taken if their coefficients sum to 1, since a scaled head is no head;
* rows that were added to a vocabulary likewise, where the vocabularies agree;
* tensors of integers are equal or in conflict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from erestore.checkpoint.dtypes import is_floating
from erestore.errors import CombinationError, Conflict, UsageError
from erestore.records import (
    Base,
    Layout,
    LayoutTensor,
    Manifest,
    Part,
    Term,
    WholeTensor,
    format_coefficient,
    normal_terms,
    parse_coefficient,
)
from erestore.storage.canonical import dump_canonical
from erestore.storage.framing import is_oid, record_oid
from erestore.storage.objects import Objects

CHOICES = ("ours", "theirs", "drop")
"""What to do about conflicts: take the first operand's, the last's, or leave the tensors out."""

VOLATILE = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype"})
"""Keys of config.json that say nothing about the weights."""
LABELS = ("id2label", "label2id")
VOCABULARIES = frozenset(
    {"added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model"}
)

_SMALLEST = Fraction(1, 2**1000)

Parts = tuple[Part, ...]


class Operand(NamedTuple):
    """A variant with its coefficient; `name` is what people call it, `commit` its oid."""

    coefficient: Fraction
    name: str
    commit: str
    manifest: Manifest


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
    loses_exact : tuple of str
        Names of operands whose exact remainders do not apply to the result.
    chosen : tuple of Conflict
        What was decided by `choose`.
    """

    manifest: Manifest
    layout: Layout
    equals: str | None
    loses_exact: tuple[str, ...]
    chosen: tuple[Conflict, ...]


def combine(objects: Objects, operands: Sequence[Operand], choose: str | None = None) -> Combination:
    """Combine variants linearly.

    Parameters
    ----------
    objects : Objects
        Records are read, and JSON side files where they differ.
    operands : sequence of Operand
        At least one; a commit may come more than once.
    choose : str, optional
        One of :data:`CHOICES`.

    Raises
    ------
    CombinationError
        If the variants have different bases, or there are conflicts and nothing is chosen; it lists them.
    """
    require_one_base(operands)
    summed = _summed(operands)
    remaining = [operand for operand in summed if operand.coefficient] or summed[:1]
    combiner = _Combiner(objects, remaining, choose)
    manifest, layout = combiner.run()
    if combiner.conflicts and choose is None:
        raise CombinationError(_sentence(combiner.conflicts), tuple(combiner.conflicts))
    commits = (operand for operand in summed if is_oid(operand.commit))  # not parts of commits
    equal = next((operand for operand in commits if _same_value(operand.manifest, manifest)), None)
    if equal is not None:
        manifest = equal.manifest
    lost = () if equal else tuple(operand.name for operand in remaining if operand.manifest.patch)
    return Combination(manifest, layout, equal.commit if equal else None, lost, tuple(combiner.conflicts))


def require_one_base(operands: Sequence[Operand]) -> None:
    """Make sure that variants can be combined at all.

    Raises
    ------
    CombinationError
        If they have different bases.
    """
    if len({operand.manifest.base for operand in operands}) > 1:
        raise CombinationError(
            f"{_names(operands)} are not variants of one base.",
            (Conflict("base", "", "different bases", tuple(operand.name for operand in operands)),),
            hint="`erestore rebase VARIANT --onto BASE` brings one onto the other's base.",
        )


def layout_oid(layout: Layout) -> str:
    """Return the oid that a layout has once it is stored."""
    return record_oid("layout", dump_canonical(layout.to_record()))


def _names(operands: Iterable[Operand]) -> str:
    names = list(dict.fromkeys(f"'{operand.name}'" for operand in operands))
    if len(names) < 2 or len(names) > 5:
        return names[0] if len(names) == 1 else f"{', '.join(names[:4])} and others"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(conflicts: Sequence[Conflict]) -> str:
    first = conflicts[0]
    subject = f"{first.subject}: " if first.subject else ""
    count = len(conflicts) - 1
    more = f" There {'is' if count == 1 else 'are'} {count} more conflict{'s' * (count > 1)}." if count else ""
    return f"The variants cannot be combined as they are: {subject}{first.reason}.{more}"


def _summed(operands: Iterable[Operand]) -> list[Operand]:
    """Return every commit once."""
    found: dict[str, Operand] = {}
    for operand in operands:
        held = found.get(operand.commit)
        found[operand.commit] = (
            operand if held is None else held._replace(coefficient=held.coefficient + operand.coefficient)
        )
    return list(found.values())


def _same_value(one: Manifest, two: Manifest) -> bool:
    return (one.base, one.terms, dict(one.dense), dict(one.rows), one.layout) == (
        two.base,
        two.terms,
        dict(two.dense),
        dict(two.rows),
        two.layout,
    )


def _exact(coefficient: Fraction | float) -> Fraction:
    return coefficient if isinstance(coefficient, Fraction) else Fraction(coefficient)


def _stored(coefficient: Fraction) -> Fraction | float:
    """Return a coefficient as it is after it was written and read."""
    if coefficient and not _SMALLEST < abs(coefficient) < 1 / _SMALLEST:
        raise UsageError(
            "A coefficient of the result is beyond what floating-point numbers hold.", hint="Scale the variants less."
        )
    return parse_coefficient(format_coefficient(coefficient))


def _sum_terms(operands: Iterable[Operand]) -> tuple[Term, ...]:
    found = normal_terms(
        tuple(
            Term(term.residual, operand.coefficient * _exact(term.coefficient))
            for operand in operands
            for term in operand.manifest.terms
        )
    )
    stored = (Term(oid, _stored(_exact(coefficient))) for oid, coefficient in found)
    return tuple(term for term in stored if term.coefficient != 0)


def _sum_parts(weighted: Iterable[tuple[Fraction, Parts]]) -> Parts:
    """Sum whole tensors; equal ones are one part, and what cancels is gone."""
    total: dict[str, tuple[Fraction, WholeTensor]] = {}
    for weight, parts in weighted:
        for part in parts:
            before, tensor = total.get(part.tensor.digest, (Fraction(0), part.tensor))
            total[part.tensor.digest] = before + weight * _exact(part.coefficient), tensor
    return tuple(Part(_stored(weight), tensor) for _, (weight, tensor) in sorted(total.items()) if weight)


class _Combiner:
    """One combination on its way; `operands` have coefficients other than 0, unless all have none."""

    def __init__(self, objects: Objects, operands: Sequence[Operand], choose: str | None) -> None:
        self.objects = objects
        self.operands = operands
        self.choose = choose
        self.conflicts: list[Conflict] = []
        self._layouts: dict[str, Layout] = {}
        self._files: dict[str, Any] = {}
        self._touched: dict[str, frozenset[str]] = {}

    @cached_property
    def base(self) -> Mapping[str, WholeTensor]:
        """The base's tensors."""
        return Base.from_record(self.objects.get_record("base", self.operands[0].manifest.base)).tensors

    def layout(self, operand: Operand) -> Layout:
        """Return an operand's layout; most share one."""
        oid = operand.manifest.layout
        if oid not in self._layouts:
            self._layouts[oid] = Layout.from_record(self.objects.get_record("layout", oid))
        return self._layouts[oid]

    def run(self) -> tuple[Manifest, Layout]:
        """Combine everything; conflicts are noted, and decided as chosen."""
        dense = self._all_parts(lambda manifest: manifest.dense, self._dense)
        rows = self._all_parts(lambda manifest: manifest.rows, self._rows)
        heights = self._heights() if self._differ else {}
        primary = self._primary(dense, rows, heights)
        layout = self._fit(self.layout(primary), dense, rows, self._present() if self._differ else {})
        same = layout == self.layout(primary)
        if not same and layout.structure is not None and layout.tensors.keys() != self.layout(primary).tensors.keys():
            reason = "the torch file around the weights has no place for tensors that come or go"
            raise CombinationError(
                f"The variants cannot be combined as they are: {reason}.",
                (Conflict("layout", "", reason, (primary.name,)),),
                hint=f"`erestore checkout {primary.name} --format safetensors`, commit that, and combine it instead.",
            )
        oid = primary.manifest.layout if same else layout_oid(layout)
        base = self.operands[0].manifest.base
        return Manifest(base, _sum_terms(self.operands), oid, dense, rows), layout

    def _all_parts(
        self,
        held: Callable[[Manifest], Mapping[str, Parts]],
        combined: Callable[[str, Mapping[int, Parts]], Parts],
    ) -> dict[str, Parts]:
        found = {}
        keys = dict.fromkeys(key for operand in self.operands for key in held(operand.manifest))
        for key in sorted(keys):
            having = {
                place: held(operand.manifest)[key]
                for place, operand in enumerate(self.operands)
                if key in held(operand.manifest)
            }
            if parts := combined(key, having):
                found[key] = parts
        return found

    def _dense(self, key: str, having: Mapping[int, Parts]) -> Parts:
        base = self.base.get(key)
        tensors = [part.tensor for parts in having.values() for part in parts]
        if not all(is_floating(tensor.dtype) for tensor in tensors):
            return self._integers(key, having)
        if base is not None and is_floating(base.dtype) and all(tensor.shape == base.shape for tensor in tensors):
            return self._over_base(key, having, base)
        parts = self._sum(having)
        if base is not None and any(
            self._touches(operand, key) for place, operand in enumerate(self.operands) if place not in having
        ):
            return self._decide("tensor", key, "some variants hold it in another shape than the base", having)
        if len({part.tensor.shape for part in parts}) > 1:
            shapes = sorted({"x".join(map(str, part.tensor.shape)) for part in parts})
            return self._decide("tensor", key, f"it has the shapes {', '.join(shapes)}", having)
        if reason := self._partly(having):
            return self._decide("tensor", key, reason, having)
        if len(parts) > 1 and not self._same_labels(having, parts):
            return self._decide("labels", key, "the classes have other names or another order (id2label)", having)
        return parts

    def _rows(self, key: str, having: Mapping[int, Parts]) -> Parts:
        parts = self._sum(having)
        if len({part.tensor.shape for part in parts}) > 1:
            sizes = sorted({str(part.tensor.shape[0]) for part in parts})
            return self._decide("rows", key, f"{', '.join(sizes)} rows were added to it", having)
        if reason := self._partly(having):
            return self._decide("rows", key, reason, having)
        if len(parts) > 1 and not self._same_vocabulary(having):
            return self._decide("vocabulary", key, "the added rows stand for other words", having)
        return parts

    def _integers(self, key: str, having: Mapping[int, Parts]) -> Parts:
        """Integers are not combined: what is left after equal ones are summed is one tensor, or a conflict."""
        base = self.base.get(key)
        total: dict[str, Fraction] = {}
        held: dict[str, Parts] = {}
        for place, operand in enumerate(self.operands):
            parts = having.get(place)
            if parts is None and base is None:
                continue
            digest = parts[0].tensor.digest if parts else base.digest if base else ""
            total[digest] = total.get(digest, Fraction(0)) + operand.coefficient
            held[digest] = parts or ()
        left = [digest for digest, weight in total.items() if weight] or list(total)[:1]
        if len(left) > 1:
            self._decide("integers", key, "its values differ, and integers are not averaged", having)
            return having.get(len(self.operands) - 1 if self.choose == "theirs" else 0, ())
        return held[left[0]]

    def _over_base(self, key: str, having: Mapping[int, Parts], base: WholeTensor) -> Parts:
        """Combine what the base has too and some variants hold whole: the base's own value is a part like others."""
        others = [operand for place, operand in enumerate(self.operands) if place not in having]
        if any(self._touches(operand, key) for operand in others):
            self._decide("tensor", key, "some variants hold it whole and others as a difference", having)
            return having.get(len(self.operands) - 1 if self.choose == "theirs" else 0, ())
        weight = sum((self.operands[place].coefficient for place in having), Fraction(0))
        weighted = [(self.operands[place].coefficient, parts) for place, parts in having.items()]
        parts = _sum_parts([*weighted, (1 - weight, (Part(Fraction(1), base),))])
        return () if len(parts) == 1 and parts[0] == Part(Fraction(1), base) else parts

    def _touches(self, operand: Operand, key: str) -> bool:
        """Tell whether a term of an operand changes a tensor of the base."""
        for term in operand.manifest.terms:
            if term.residual not in self._touched:
                index = self.objects.open("residual", term.residual).index
                self._touched[term.residual] = frozenset(index["tensors"])
            if key in self._touched[term.residual]:
                return True
        return False

    def _sum(self, having: Mapping[int, Parts]) -> Parts:
        return _sum_parts((self.operands[place].coefficient, parts) for place, parts in having.items())

    def _partly(self, having: Mapping[int, Parts]) -> str:
        """Say why what only some variants have cannot be taken; empty where it can."""
        if len(having) == len(self.operands):
            return ""
        weight = sum((self.operands[place].coefficient for place in having), Fraction(0))
        if weight in (0, 1) and (weight or not self._sum(having)):
            return ""
        verb = "has" if len(having) == 1 else "have"
        return (
            f"only {_names([self.operands[place] for place in having])} {verb} it, and it would be scaled by {weight}"
        )

    def _decide(self, kind: str, key: str, reason: str, having: Mapping[int, Parts]) -> Parts:
        names = tuple(self.operands[place].name for place in having)
        self.conflicts.append(Conflict(kind, key, reason, names))
        if self.choose in (None, "drop"):
            return ()
        return having[min(having) if self.choose == "ours" else max(having)]

    def _same_labels(self, having: Mapping[int, Parts], parts: Parts) -> bool:
        """Tell whether the variants whose tensors are left name their classes alike."""
        left = {part.tensor.digest for part in parts}
        places = [place for place, own in having.items() if any(part.tensor.digest in left for part in own)]
        found = [self._config(self.operands[place]) for place in places]
        return all(config.get(key) == found[0].get(key) for config in found for key in LABELS)

    def _config(self, operand: Operand) -> Mapping[str, Any]:
        content = self._json(operand, "config.json")
        return content if isinstance(content, dict) else {}

    def _json(self, operand: Operand, name: str) -> Any:
        oid = self.layout(operand).side_files.get(name)
        if oid is None:
            return None
        if oid not in self._files:
            try:
                self._files[oid] = json.loads(self.objects.get_blob(oid))
            except (ValueError, RecursionError):
                self._files[oid] = None
        return self._files[oid]

    def _same_vocabulary(self, having: Mapping[int, Parts]) -> bool:
        found = {tuple(self._vocabulary(self.operands[place])) for place in having}
        return len(found) == 1

    def _vocabulary(self, operand: Operand) -> Iterator[str]:
        """Yield what tells vocabularies apart; of a tokenizer.json, which holds settings too, the words alone."""
        files = self.layout(operand).side_files
        for name in sorted(VOCABULARIES & set(files)):
            yield f"{name} {files[name]}"
        tokenizer = self._json(operand, "tokenizer.json")
        if isinstance(tokenizer, dict):
            model = tokenizer.get("model")
            words = model.get("vocab") if isinstance(model, dict) else None
            yield json.dumps([words, tokenizer.get("added_tokens")], sort_keys=True)

    def _heights(self) -> dict[str, int]:
        """Return how many of the base's rows the result has of its tensors, where variants have different numbers of them."""
        found: dict[str, dict[int, Fraction]] = {}
        names: dict[tuple[str, int], list[str]] = {}
        for operand in self.operands:
            for key, tensor in {tensor.key: tensor for tensor in self.layout(operand).tensors.values()}.items():
                if key in self.base and tensor.shape and key not in operand.manifest.dense:
                    height = min(tensor.shape[0], self.base[key].shape[0])
                    weights = found.setdefault(key, {})
                    weights[height] = weights.get(height, Fraction(0)) + operand.coefficient
                    names.setdefault((key, height), []).append(operand.name)
        heights = {}
        for key, weights in found.items():
            left = [height for height, weight in weights.items() if weight] or [max(weights)]
            if len(left) > 1:
                reason = f"the variants have {' and '.join(map(str, sorted(left)))} of its rows"
                self.conflicts.append(Conflict("rows", key, reason, tuple(names[key, height][0] for height in left)))
            elif len(weights) > 1:
                heights[key] = left[0]
        return heights

    @property
    def _differ(self) -> bool:
        """Whether there is more than one layout."""
        return len({operand.manifest.layout for operand in self.operands}) > 1

    def _present(self) -> dict[str, bool]:
        """Return of the base's tensors that only some variants have whether the result has them."""
        held = [{tensor.key for tensor in self.layout(operand).tensors.values()} for operand in self.operands]
        found = {}
        for key in sorted(set().union(*held) & set(self.base)):
            having = [place for place, keys in enumerate(held) if key in keys]
            lacking = sum(
                (self.operands[place].coefficient for place in range(len(held)) if place not in having), Fraction(0)
            )
            if len(having) == len(held) or not lacking:
                found[key] = True
            elif not sum((self.operands[place].coefficient for place in having), Fraction(0)):
                found[key] = False
            else:
                names = tuple(self.operands[place].name for place in having)
                reason = (
                    f"only {_names([self.operands[place] for place in having])} of the variants kept it of the base"
                )
                self.conflicts.append(Conflict("tensor", key, reason, names))
                chosen = {"ours": 0 in having, "theirs": len(held) - 1 in having}
                found[key] = chosen.get(self.choose or "", False)
        return found

    def _primary(self, dense: Mapping[str, Parts], rows: Mapping[str, Parts], heights: Mapping[str, int]) -> Operand:
        """Return the operand whose layout the result has: the first, or if asked for the last, that has all tensors of it."""
        ordered = list(reversed(self.operands)) if self.choose == "theirs" else list(self.operands)

        def lacking(operand: Operand) -> int:
            shapes = {tensor.key: tensor.shape for tensor in self.layout(operand).tensors.values()}
            missing = sum(key not in shapes for key in dense)
            missing += sum(key not in shapes or shapes[key][0] < self._height(key, own) for key, own in rows.items())
            return missing + sum(key in shapes and shapes[key][0] < height for key, height in heights.items())

        return min(ordered, key=lacking)

    def _height(self, key: str, parts: Parts) -> int:
        return self.base[key].shape[0] + parts[0].tensor.shape[0]

    def _fit(
        self, layout: Layout, dense: Mapping[str, Parts], rows: Mapping[str, Parts], present: Mapping[str, bool]
    ) -> Layout:
        """Return a layout with the tensors that the result has, no others, in the shapes that it has them in."""
        tensors: dict[str, LayoutTensor] = {}
        for name, tensor in layout.tensors.items():
            if (fitted := self._fitted(tensor, dense, rows)) is not None and present.get(tensor.key, True):
                tensors[name] = fitted
        named = {tensor.key for tensor in tensors.values()}
        added: dict[str, LayoutTensor] = {}
        for key in dict.fromkeys((*dense, *rows, *(key for key, is_held in present.items() if is_held))):
            if key not in named:
                name, tensor = next(self._found(key, {*tensors, *added}))
                fitted = self._fitted(tensor, dense, rows)
                assert fitted is not None
                added[name] = fitted
        tensors |= added
        if tensors == dict(layout.tensors):
            return layout
        files = [
            replace(file, tensors=tuple(name for name in file.tensors if name in tensors)) for file in layout.files
        ]
        files[-1] = replace(files[-1], tensors=(*files[-1].tensors, *added))
        ties = tuple(group for group in layout.ties if all(name in tensors for name in group))
        return replace(layout, tensors=tensors, files=tuple(files), ties=ties)

    def _fitted(
        self, tensor: LayoutTensor, dense: Mapping[str, Parts], rows: Mapping[str, Parts]
    ) -> LayoutTensor | None:
        """Return a layout's tensor in the shape and dtype that the result has it in; None where it does not have it."""
        if tensor.key in dense:
            held = dense[tensor.key][0].tensor
            floating = is_floating(tensor.dtype) and is_floating(held.dtype)
            return replace(tensor, shape=held.shape, dtype=tensor.dtype if floating else held.dtype)
        if tensor.key not in self.base:
            return None
        base = self.base[tensor.key]
        if not is_floating(base.dtype):
            return replace(tensor, dtype=base.dtype, shape=base.shape)
        if tensor.key in rows:
            return replace(tensor, shape=(self._height(tensor.key, rows[tensor.key]), *tensor.shape[1:]))
        if tensor.shape and base.shape and tensor.shape[0] > base.shape[0] and tensor.shape[1:] == base.shape[1:]:
            return replace(tensor, shape=base.shape)
        return tensor

    def _found(self, key: str, taken: Collection[str]) -> Iterator[tuple[str, LayoutTensor]]:
        """Yield names that operands have for a tensor which the result's layout lacks; the key itself at last."""
        tensor = None
        for operand in self.operands:
            for name, held in self.layout(operand).tensors.items():
                if held.key == key:
                    tensor = held
                    if name not in taken:
                        yield name, held
        assert tensor is not None
        yield key, tensor
