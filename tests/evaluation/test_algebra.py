"""Linear combinations of real commits against dense float64 arithmetic, and what cannot be combined."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from erestore.algebra.expression import parse_expression
from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CombinationError, ConflictError, UsageError
from erestore.history.revision import open_revision

Tensors = dict[str, torch.Tensor]


def save(path: Path, tensors: Tensors, **files: Any) -> Path:
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


class World:
    """A store with one base and variants of all sorts, and the tensors that each was made from."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.random = torch.Generator().manual_seed(11)
        self.store = Store.init(place / "store")
        self.base: Tensors = {
            "embed.weight": self.noise(50, 24),
            "layer.weight": self.noise(32, 24),
            "layer.bias": self.noise(32),
            "norm.weight": self.noise(24).to(torch.bfloat16),
            "scale": torch.tensor(0.5),
            "position_ids": torch.arange(9),
        }
        save(place / "base", self.base)
        self.store.import_base(place / "base", name="base")

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random)

    def tune(self, tensors: Tensors, **new: torch.Tensor) -> Tensors:
        found = {}
        for name, own in tensors.items():
            if own.is_floating_point():
                change = 0.05 * self.noise(*own.shape)
                if own.ndim == 2:  # so that there are components, a remainder and a multiple of the base
                    change = change * 0.02 + 0.1 * self.noise(len(own), 2) @ self.noise(2, own.shape[1]) - 0.01 * own
                found[name] = (own.double() + change).to(own.dtype)
            else:
                found[name] = own
        return found | new

    def commit(
        self, name: str, tensors: Tensors, quality: Quality | None = None, parent: str = "", **files: Any
    ) -> None:
        where = {"parent": parent} if parent else {"base": "base"}
        self.store.commit(save(self.place / name, tensors, **files), name=name, quality=quality, **where)

    def linear(self, expression: str, key: str) -> np.ndarray:
        variant = open_revision(self.store, expression).variant(self.store)
        matrix = variant.linear(key)
        return matrix.rows(0, matrix.base.shape[0])

    def dense(self, coefficients: dict[str, Fraction | float], key: str) -> np.ndarray:
        base = self.linear("base", key)
        total = base.copy()
        for name, coefficient in coefficients.items():
            total += float(coefficient) * (self.linear(name, key) - base)
        return total


FLOATING = ("embed.weight", "layer.weight", "layer.bias", "norm.weight", "scale")
WEIGHTS = FLOATING[:-1]
"""What errors are relative to: a single number is exact, and stands outside of them."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """`a` and `b` have heads alike, `c` another, `chain` continues `a`, `exact` has a remainder, `plain` no head."""
    world = World(tmp_path_factory.mktemp("algebra"))
    labels = {"id2label": {"0": "no", "1": "yes"}}
    a = world.tune(world.base, **{"head.weight": world.noise(2, 24)})
    world.commit("a", a, config=labels | {"_name_or_path": "x"})
    world.commit("b", world.tune(world.base, **{"head.weight": world.noise(2, 24)}), config=labels)
    world.commit("c", world.tune(world.base, **{"head.weight": world.noise(5, 24)}))
    world.commit("swapped", world.tune(a), config={"id2label": {"0": "yes", "1": "no"}})
    world.commit("chain", world.tune(a), parent="a", config=labels)
    world.commit("exact", world.tune(a), Quality(exact=True, max_error=0.05), config=labels)
    world.commit("plain", world.tune(world.base))
    world.commit("lossy", world.tune(world.base), Quality(max_error=0.4))
    grown = world.tune(world.base)
    for name in ("grown", "grown2", "other-words"):
        more = grown | {"embed.weight": torch.cat([grown["embed.weight"], world.noise(3, 24)])}
        words = {"<x>": 50} if name != "other-words" else {"<y>": 50}
        world.commit(name, world.tune(more), added_tokens=words)
    world.commit("shrunk", world.tune(world.base | {"embed.weight": world.base["embed.weight"][:40]}))
    world.commit("integers", world.tune(world.base | {"position_ids": torch.arange(9) + 1}))
    nan = world.tune(world.base)
    nan["layer.bias"][3] = float("nan")
    world.commit("nan", nan)
    return world


DYADIC = [
    "a + b - c + c - b",
    "a - b + b",
    "0.5*a + 0.5*a",
    "a + 3*(b - c) + 3*(c - b)",
    "2*a - mean(a, a)",
    "a + chain - chain",
]


@pytest.mark.parametrize("expression", DYADIC)
def test_what_cancels_is_gone_bit_for_bit(world: World, expression: str) -> None:
    found, a = open_revision(world.store, expression), open_revision(world.store, "a")
    assert (found.oid, found.manifest) == (a.oid, a.manifest)
    for key in FLOATING:
        assert world.linear(expression, key).tobytes() == world.linear("a", key).tobytes()


@pytest.mark.parametrize(
    "expression",
    [
        "a + b",
        "0.5*a + 0.5*b",
        "0.25*a + 0.75*b - 4*plain",
        "chain + b - a",
        "mean(a, b, chain)",
        "0.1*a + 0.3*b",
        "1/3*a + 1/7*b - 1/9*exact",
        "-0.7*lossy + 1/3*plain",
        "c + plain - lossy",
        "0.3*base + 0.7*plain",
    ],
)
def test_values_are_those_of_dense_float64(world: World, expression: str) -> None:
    coefficients = parse_expression(expression)
    for key in FLOATING:
        found, wanted = world.linear(expression, key), world.dense(dict(coefficients), key)
        scale = max(1.0, float(np.abs(wanted).max()))
        assert np.abs(found - wanted).max() < 1e-13 * scale * 32


def test_heads_are_combined_too(world: World) -> None:
    head = {name: world.store.cat(name, "head.weight").value.double() for name in ("a", "b")}
    found = world.store.state_dict("0.25*a + 0.75*b")["head.weight"]
    assert torch.equal(found, (0.25 * head["a"] + 0.75 * head["b"]).float())
    assert "head.weight" not in world.store.state_dict("a - a")


def test_what_one_variant_has_alone_is_kept_or_a_conflict(world: World) -> None:
    for expression in (
        "a + plain",
        "plain + a",
        "plain + a - lossy",
        "2*plain + b - plain + 3*(a - b) - 2*(a - b) - (a - b)",
    ):
        held = "b" if "b" in expression else "a"
        found = world.store.state_dict(expression)["head.weight"]
        assert torch.equal(found, world.store.state_dict(held)["head.weight"])
    with pytest.raises(CombinationError, match=r"head.weight.*scaled by 1/2") as refused:
        open_revision(world.store, "mean(a, plain)")
    (conflict,) = refused.value.conflicts
    assert (conflict.kind, conflict.subject, conflict.operands) == ("tensor", "head.weight", ("a",))
    assert "head.weight" not in open_revision(world.store, "mean(a, plain)", "drop").variant(world.store).layout.tensors


@pytest.mark.parametrize(
    ("expression", "scaled"),
    [
        ("mean(a, base)", "1/2"),
        ("base + 0.25*a", "1/4"),
        ("a + 0.5*(base - a)", "1/2"),
        ("mean(a, b, base)", "2/3"),
        ("base - a", "-1"),
    ],
)
def test_a_head_that_the_base_lacks_is_not_averaged_with_the_base(world: World, expression: str, scaled: str) -> None:
    with pytest.raises(CombinationError, match=rf"head.weight: only .* ha(s|ve) it, .* by {scaled}") as refused:
        open_revision(world.store, expression)
    assert [conflict.subject for conflict in refused.value.conflicts] == ["head.weight"]


def test_rows_and_tensors_that_differ_from_the_base_are_not_averaged_with_it(world: World) -> None:
    for expression, kind in (
        ("mean(grown, base)", "rows"),
        ("mean(base, shrunk)", "rows"),
        ("mean(integers, base)", "integers"),
    ):
        with pytest.raises(CombinationError) as refused:
            open_revision(world.store, expression)
        assert [conflict.kind for conflict in refused.value.conflicts] == [kind]


@pytest.mark.parametrize(
    ("expression", "coefficients"),
    [
        ("a + 0.5*(b - base)", {"a": 1, "b": 0.5}),
        ("base + 0.75*a + 0.25*b", {"a": 0.75, "b": 0.25}),
        ("mean(a, b) + 0*base", {"a": 0.5, "b": 0.5}),
        ("2*a - base", {"a": 2}),
        ("base + a", {"a": 1}),
        ("base + shrunk", {"shrunk": 1}),
    ],
)
def test_a_base_that_has_no_share_is_nothing(
    world: World, expression: str, coefficients: dict[str, Fraction | float]
) -> None:
    bare = " + ".join(f"{coefficient}*{name}" for name, coefficient in coefficients.items())
    expected = open_revision(world.store, bare if len(coefficients) > 1 or "2" in bare else next(iter(coefficients)))
    result = open_revision(world.store, expression)
    assert (result.oid, result.manifest, result.layout) == (expected.oid, expected.manifest, expected.layout)


def test_merges_and_soups_of_a_variant_and_its_base_agree(world: World) -> None:
    store = world.store
    for order in (["a", "base"], ["base", "a"]):
        for combine in (
            lambda names, choose: store.merge(names, name="with-base", choose=choose),
            lambda names, choose: store.merge(
                names, name="with-base", strategy="weighted", weights=[2, 2], choose=choose
            ),
            lambda names, choose: store.merge(names, name="with-base", strategy="ties", choose=choose),
            lambda names, choose: store.soup(names, name="with-base", choose=choose).made,
        ):
            with pytest.raises(CombinationError, match=r"head.weight: only 'a' has it.* by 1/2"):
                combine(order, None)
            assert [conflict.subject for conflict in combine(order, "ours").chosen] == ["head.weight"]
            assert torch.equal(store.state_dict("with-base")["head.weight"], store.state_dict("a")["head.weight"])
    half, base, a = (world.linear(name, "layer.weight") for name in ("with-base", "base", "a"))
    assert np.abs(half - (base + a) / 2).max() < 1e-13


def test_an_average_with_the_base_has_the_files_that_were_tuned(world: World) -> None:
    world.commit("configured", world.tune(world.base), config={"tuned": True})
    layout = open_revision(world.store, "0.3*base + 0.7*configured").layout
    assert layout is not None
    assert set(layout.side_files) == {"config.json"}


CONFLICTS = [
    ("a + c", "tensor", "head.weight"),
    ("mean(a, swapped)", "labels", "head.weight"),
    ("mean(grown, other-words)", "vocabulary", "embed.weight"),
    ("mean(plain, grown)", "rows", "embed.weight"),
    ("a + shrunk", "rows", "embed.weight"),
    ("plain + integers", "integers", "position_ids"),
    ("mean(plain, nan)", "tensor", "layer.bias"),
]


@pytest.mark.parametrize(("expression", "kind", "subject"), CONFLICTS)
def test_conflicts_are_data_and_can_be_decided(world: World, expression: str, kind: str, subject: str) -> None:
    with pytest.raises(CombinationError) as refused:
        open_revision(world.store, expression)
    assert (kind, subject) in {(conflict.kind, conflict.subject) for conflict in refused.value.conflicts}
    assert "--ours" in str(refused.value.hint)
    first, last = (list(parse_expression(expression))[place] for place in (0, -1))
    for choice, name in (("ours", first), ("theirs", last), ("drop", "")):
        variant = open_revision(world.store, expression, choice).variant(world.store)
        shapes = {own: variant.tensor(own).shape for own in variant.layout.tensors}
        if name and subject in world.store.state_dict(name) and kind != "rows":
            wanted = world.store.state_dict(name)[subject]
            assert shapes[subject] == wanted.shape
            if kind != "vocabulary":
                assert torch.equal(variant.tensor(subject).nan_to_num(7), wanted.nan_to_num(7))


def test_added_rows_of_one_vocabulary_are_combined(world: World) -> None:
    rows = [world.store.state_dict(name)["embed.weight"][50:].double() for name in ("grown", "grown2")]
    found = world.store.state_dict("0.5*grown + 0.5*grown2")["embed.weight"]
    assert torch.equal(found[50:], (0.5 * rows[0] + 0.5 * rows[1]).float())
    assert world.store.state_dict("plain + grown")["embed.weight"].shape == (53, 24)
    assert world.store.state_dict("grown + plain - plain")["embed.weight"].shape == (53, 24)


def test_other_bases_are_a_conflict(world: World) -> None:
    save(world.place / "other", world.tune(world.base))
    world.store.import_base(world.place / "other", name="other")
    save(world.place / "foreign", world.tune(world.base))
    world.store.commit(world.place / "foreign", base="other", name="foreign")
    for expression in ("a + foreign", "a + other"):
        with pytest.raises(CombinationError, match="one base") as refused:
            open_revision(world.store, expression)
        assert "rebase" in str(refused.value.hint)


def test_exact_remainders_stay_where_the_value_does(world: World) -> None:
    assert open_revision(world.store, "exact + b - b").manifest.patch
    found = open_revision(world.store, "exact + 0.5*plain")
    assert found.manifest.patch is None
    assert found.loses_exact == ("exact",)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft itself
def test_adapters_combine_as_they_are(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    torch.manual_seed(1)
    BertModel(config).save_pretrained(tmp_path / "base")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base", name="base")
    for name in ("one", "two"):
        model = get_peft_model(BertModel(config), LoraConfig(target_modules=["query"], r=2, init_lora_weights=False))
        model.save_pretrained(tmp_path / name)
        store.commit(tmp_path / name, base="base", name=name)
    key = "encoder.layer.0.attention.self.query.weight"
    values = {name: store.state_dict(name)[key].double() for name in ("base", "one", "two")}
    found = store.state_dict("0.5*one + 0.5*two")[key].double()
    assert torch.allclose(found, 0.5 * values["one"] + 0.5 * values["two"], atol=1e-7, rtol=0)


def test_checkout_and_diff_take_expressions(world: World, tmp_path: Path) -> None:
    done = world.store.checkout("0.5*a + 0.5*b", tmp_path / "out")
    assert done.commit is None
    assert done.error_bound is not None
    assert 0 < done.error_bound < 0.05
    assert world.store.checkout("a + b - b", tmp_path / "same").relative_error == world.store.show("a").relative_error
    with pytest.raises(UsageError, match="no name to make a directory of"):
        world.store.checkout("0.5*a + 0.5*b")
    found = world.store.diff("0.5*a + 0.5*b", tmp_path / "out")
    assert all(tensor.status == "unchanged" for tensor in found.tensors)
    zero = world.store.diff("a + b - a", "b")
    assert all(tensor.status == "unchanged" for tensor in zero.tensors)
    for refuse in (world.store.show, lambda text: world.store.tag("t", text), lambda text: world.store.log([text])):
        with pytest.raises(UsageError, match="expression") as refused:
            refuse("a + b")
        assert 'merge "a + b"' in str(refused.value.hint)


def test_merging_records_how_and_can_be_undone(world: World) -> None:
    done = world.store.merge(["a", "b", "chain"], name="soup")
    assert done.parents == tuple(world.store.resolve(name) for name in ("a", "b", "chain"))
    assert done.coefficients == {"a": "1/3", "b": "1/3", "chain": "1/3"}
    assert done.stored_bytes < 20_000
    assert done.relative_error is None
    assert 0 < done.error_bound < 0.05
    assert world.store.merge(["a", "b", "chain"], name="soup").unchanged
    without = world.store.unmerge("soup", "chain")
    assert without.ref == "soup"
    assert without.parents[0] == done.commit
    assert world.store.manifest_of("soup") == open_revision(world.store, "mean(a, b)").manifest
    one = world.store.unmerge("soup", "b")
    assert world.store.manifest_of("soup") == world.store.manifest_of("a")
    assert one.relative_error == world.store.show("a").relative_error
    assert world.store.log(["soup"])[0].commit == one.commit
    assert world.store.fsck().corrupt == ()
    world.store.tag("fixed", "a")
    for name, reason in (("fixed", "tag"), ("base", "a base")):
        with pytest.raises(ConflictError, match=reason):
            world.store.merge(["b", "chain"], name=name)


def test_a_merge_that_is_an_expression(world: World) -> None:
    done = world.store.merge(["a + 0.5*(b - a)"], name="between")
    assert done.coefficients == {"a": "1/2", "b": "1/2"}
    assert world.store.manifest_of("between") == open_revision(world.store, "mean(a, b)").manifest
    assert world.store.show("between").recipe["strategy"] == "expression"
    with pytest.raises(UsageError, match="own coefficients"):
        world.store.merge(["a + b"], name="x", weights=[1])
    for weights, reason in (([1], "1 weights"), ([1, -1], "sum to 0"), (["x", 1], "not a weight")):
        with pytest.raises(UsageError, match=reason):
            world.store.merge(["a", "b"], name="x", weights=weights)
