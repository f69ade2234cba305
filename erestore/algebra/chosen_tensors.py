"""Tensors that a combination has from one operand, whatever the others are: what a choice over a conflict comes to.

The sum of residuals is another value where the operand's coefficient is not 1, or where another operand changes the tensor
too. So such a tensor is kept whole.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from erestore.algebra.operands import Combined
from erestore.algebra.sums import Parts
from erestore.arrays import raw_bytes
from erestore.objects.patch import Patch
from erestore.objects.tensors import TensorWriter, content_digest
from erestore.records import Part, TensorRef, WholeTensor
from erestore.storage.segments import PutResult
from erestore.variant.variant import Variant


class ChosenTensors:
    """Collects what is taken from single operands, and stores what is not in the store whole.

    Parameters
    ----------
    combined : Combined

    Attributes
    ----------
    written : PutResult or None
        Where tensors had to be stored.
    """

    def __init__(self, combined: Combined) -> None:
        self.combined = combined
        self.written: PutResult | None = None
        self._places: dict[str, int] = {}
        self._patches: dict[str, Patch] = {}

    def take(self, index: int, key: str) -> Parts:
        """Take the tensor of the operand at an index.

        Returns
        -------
        Parts
            What the result holds whole of it, empty if it has the base's value anyway; empty as well if it has to be
            computed: then :meth:`store` returns it.
        """
        if key in (dense := self.combined.operands[index].manifest.dense):
            return dense[key]
        if self.is_computed(index, key):
            self._places[key] = index
            return ()
        return self.base_parts(key)

    def base_parts(self, key: str) -> Parts:
        """Return what the result holds whole of a tensor that is to be the base's; empty if no operand changes it."""
        base = self.combined.base.get(key)
        is_changed = any(self.combined.touches(operand, key) for operand in self.combined.operands)
        return (Part(Fraction(1), base),) if base is not None and is_changed else ()

    def is_computed(self, index: int, key: str) -> bool:
        """Return whether an operand's tensor is neither held whole nor the base's."""
        operand = self.combined.operands[index]
        is_whole = key in operand.manifest.dense
        return not is_whole and (self.combined.touches(operand, key) or self.is_patched(index, key))

    def is_patched(self, index: int, key: str) -> bool:
        """Return whether an operand's exact remainder has something of a tensor."""
        patch = self.patch(self.combined.operands[index].manifest.patch)
        return patch is not None and key in patch.tensors

    def patch(self, oid: str | None) -> Patch | None:
        """Return an exact remainder; each is opened once."""
        if oid is None:
            return None
        if oid not in self._patches:
            self._patches[oid] = Patch.open(self.combined.objects, oid)
        return self._patches[oid]

    def store(self) -> dict[str, Parts]:
        """Store what was taken and has to be computed; return it by key."""
        if not self._places:
            return {}
        fresh: dict[str, WholeTensor] = {}
        with TensorWriter(self.combined.objects, align=1) as writer:
            for key, index in sorted(self._places.items()):
                operand = self.combined.operands[index]
                tensor = self.combined.tensor(operand, key)
                variant = Variant(self.combined.objects, operand.manifest, layout=self.combined.layout(operand))
                content = raw_bytes(variant.stored(key, tensor.dtype, tensor.shape))
                digest = content_digest(tensor.dtype, tensor.shape, content)
                reference = TensorRef("", *writer.add(content, tensor.dtype))
                fresh[key] = WholeTensor(tensor.dtype, tensor.shape, digest, reference)
            self.written = writer.finish()
        oid = self.written.oid
        return {
            key: (Part(Fraction(1), replace(tensor, data=tensor.data._replace(oid=oid))),)
            for key, tensor in fresh.items()
        }
