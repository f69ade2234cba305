"""The vector algebra on real families, against dense float64 arithmetic on what each variant decodes to."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import families
import numpy as np
import pytest
import torch

from erestore.algebra.expression import parse_expression
from erestore.analysis.similarity.inner_products import variant_products
from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CombinationError
from erestore.history.revision import open_revision
from erestore.variant.variant import Variant

pytestmark = pytest.mark.models


class Family:
    """A base and variants in a store; `chain` continues the first of them."""

    def __init__(self, place: Path, base: Path, variants: Mapping[str, Path]) -> None:
        self.store = Store.init(place)
        self.store.import_base(base, name="base")
        for name, path in variants.items():
            self.store.commit(path, base="base", name=name, quality=Quality(max_error=0.02))
        first, last = next(iter(variants)), list(variants)[-1]
        self.store.commit(variants[last], parent=first, name="chain", quality=Quality(max_error=0.02))
        self.names = [*variants, "chain"]
        self._opened: dict[str, Variant] = {}
        self._values: dict[tuple[str, str], np.ndarray] = {}
        variant = open_revision(self.store, first).variant(self.store)
        self.keys = sorted({key for _, residual in variant.residuals for key in residual.tensors})

    def variant(self, text: str) -> Variant:
        """Open what an expression stands for, once."""
        if text not in self._opened:
            found = open_revision(self.store, text, "drop")
            self._opened[text] = found.variant(self.store)
        return self._opened[text]

    def linear(self, text: str, key: str) -> np.ndarray:
        if (text, key) not in self._values:
            tensor = self.variant(text).linear(key)
            self._values[text, key] = tensor.rows(0, tensor.base.shape[0])
        return self._values[text, key]

    def dense(self, coefficients: Mapping[str, Fraction], key: str) -> np.ndarray:
        base = self.linear("base", key)
        total = base.copy()
        for name, coefficient in coefficients.items():
            total += float(coefficient) * (self.linear(name, key) - base)
        return total


@pytest.fixture(scope="module", params=[pytest.param("rxnfp", marks=pytest.mark.soak), "glyphive"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    place = tmp_path_factory.mktemp(request.param) / "store"
    if request.param == "rxnfp":
        models = families.rxnfp()
        return Family(place, models["bert_pretrained"], {"ft": models["bert_ft"], "k10": models["bert_ft_10k_25s"]})
    models = families.glyphive()
    return Family(place, models["ocrb"], {name: models[name] for name in ("courier", "dejavu", "libmono")})


def test_identities_hold_bit_for_bit(family: Family) -> None:
    one, two = family.names[:2]
    for text in (
        f"{one} + {two} - {two}",
        f"{one} + 0.75*(chain - {two}) - 0.75*(chain - {two})",
        f"chain + {one} - {one}",
    ):
        wanted = "chain" if text.startswith("chain") else one
        assert open_revision(family.store, text).manifest == family.store.manifest_of(wanted)
        for key in family.keys:
            assert family.linear(text, key).tobytes() == family.linear(wanted, key).tobytes()


@pytest.mark.parametrize("pattern", ["0.5*{0} + 0.5*{1}", "1/3*{0} + 0.1*{1} - 1/7*chain", "{0} + {1} - chain"])
def test_values_are_those_of_dense_arithmetic(family: Family, pattern: str) -> None:
    text = pattern.format(*family.names)
    coefficients = parse_expression(text)
    for key in family.keys:
        found, wanted = family.linear(text, key), family.dense(coefficients, key)
        assert np.abs(found - wanted).max() <= 1e-12 * np.abs(wanted).max()


def test_unequal_heads_are_a_conflict_that_names_them(family: Family) -> None:
    if family.names[1] != "k10":
        assert open_revision(family.store, "mean(courier, dejavu)").manifest.dense == {}
        return
    with pytest.raises(CombinationError) as refused:
        open_revision(family.store, "mean(ft, k10)")
    assert any("classifier" in conflict.subject for conflict in refused.value.conflicts)
    assert open_revision(family.store, "ft + k10").manifest.dense.keys() >= {"classifier.weight"}


def test_a_mean_is_checked_out_rounded_once_and_flattened_within_its_error(family: Family, tmp_path: Path) -> None:
    family.store.merge(family.names, name="soup", choose="drop")
    variant = open_revision(family.store, "soup").variant(family.store)
    coefficients = dict.fromkeys(family.names, Fraction(1, len(family.names)))
    names = {tensor.key: name for name, tensor in variant.layout.tensors.items()}
    for key in family.keys:
        found = variant.tensor(names[key])
        wanted = torch.from_numpy(family.dense(coefficients, key)).reshape(found.shape)
        room = 1e-12 * float(
            wanted.abs().max()
        )  # the order of sums differs, and so may what is half way between two values
        below, above = ((wanted + sign * room).to(found.dtype) for sign in (-1, 1))
        assert bool(((found >= below) & (found <= above)).all())
    done = family.store.flatten("soup", name="flat", max_error=1e-3)
    assert done.after.terms == 1
    assert done.flatten_error <= 1e-3
    lost = sum(np.square(family.linear("soup", key) - family.linear("flat", key)).sum() for key in family.keys)
    norm = sum(np.square(family.linear("soup", key) - family.linear("base", key)).sum() for key in family.keys)
    assert lost / norm <= 1.05e-3
    family.store.checkout("flat", tmp_path / "flat")


def test_inner_products_are_those_of_dense_arithmetic(family: Family) -> None:
    found = variant_products([open_revision(family.store, name).variant(family.store) for name in family.names])
    keys = sorted({k for name in family.names for k in touched(family.store, name)})
    deltas = np.stack(
        [
            np.concatenate([(family.linear(name, key) - family.linear("base", key)).reshape(-1) for key in keys])
            for name in family.names
        ]
    )
    wanted = deltas @ deltas.T
    assert np.abs(found - wanted).max() <= 1e-9 * np.abs(wanted).max()


def touched(store: Store, name: str) -> set[str]:
    return {key for _, residual in open_revision(store, name).variant(store).residuals for key in residual.tensors}


def test_a_merge_that_is_encoded_is_as_good_as_it_says(family: Family) -> None:
    done = family.store.merge(family.names[:2], name="ties", strategy="ties", choose="drop")
    assert done.relative_error is not None
    assert done.relative_error <= 1e-3
    assert len(family.store.manifest_of("ties").terms) == 1
