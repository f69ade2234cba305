"""Merge configurations in mergekit's format: what they mean here, and what is refused."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))

from test_algebra import World

from erestore.errors import AccessError, ErestoreError, NotFoundError, UnknownRevisionError, UsageError
from erestore.integrations.mergekit import MergekitMerge, read_mergekit
from erestore.integrations.yaml_files import LARGEST, read_yaml

TWO = """
models:
  - model: a
    parameters:
      weight: 0.7
  - model: b
    parameters:
      weight: 0.1
"""
PLAIN = "models:\n  - model: a\n  - model: b\n"
DENSE = """
models:
  - model: base
    # no parameters necessary for base model
  - model: a
    parameters: {density: 0.5, weight: 0.5}
  - model: b
    parameters:
      density: 0.5
      weight: 0.3 # as mergekit's example has it
base_model: base
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("recipes"))
    for name in ("a", "b"):
        world.commit(name, world.tune(world.base))
    world.store.import_base(world.place / "a", name="second")
    return world


def written(world: World, text: str) -> Path:
    path = world.place / "recipe.yaml"
    path.write_text(text)
    return path


SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("merge_method: linear" + TWO, {"strategy": "weighted", "weights": ["0.7", "0.1"]}),
    "linear, not normalised": (
        "merge_method: linear\nparameters: {normalize: false, weight: 0.5}\n" + PLAIN,
        {"strategy": "weighted", "weights": ["1/2", "1/2"]},
    ),
    "linear with a base, which counts": (
        "merge_method: linear\nbase_model: base\nparameters: {weight: 2}\n" + PLAIN,
        {"strategy": "weighted", "weights": [2, 2, 2], "revisions": ["a", "b", "base"]},
    ),
    "task_arithmetic": (
        "merge_method: task_arithmetic\nbase_model: base\nparameters: {lambda: 0.3, int8_mask: true}" + TWO,
        {"strategy": "task-arithmetic", "weights": ["0.7", "0.1"], "options": {"scale": "0.3"}},
    ),
    "task_arithmetic, negative": (
        "merge_method: task_arithmetic\nbase_model: ./base/\nparameters: {weight: -1e-1}\n" + PLAIN,
        {"strategy": "task-arithmetic", "weights": ["-0.1", "-0.1"]},
    ),
    "task_arithmetic, normalised": (
        "merge_method: task_arithmetic\nbase_model: base\nparameters: {normalize: true}" + TWO,
        {"strategy": "weighted", "weights": ["0.7", "0.1"]},
    ),
    "ties": (
        "merge_method: ties" + DENSE + "parameters:\n  normalize: true\n  int8_mask: true\ndtype: null\n",
        {"strategy": "ties", "weights": ["0.5", "0.3"], "options": {"density": "0.5"}},
    ),
    "ties, by default": (
        "merge_method: ties" + DENSE,
        {"strategy": "ties", "weights": ["0.5", "0.3"], "options": {"density": "0.5", "combine": "mean"}},
    ),
    "ties, summed": (
        "merge_method: ties\nbase_model: base\nparameters: {normalize: false, lambda: 1.5}" + TWO,
        {
            "strategy": "ties",
            "weights": ["0.7", "0.1"],
            "options": {"density": "1", "combine": "sum", "scale": "1.5"},
        },
    ),
    "dare_linear": (
        "merge_method: dare_linear" + DENSE,
        {"strategy": "dare", "weights": ["0.5", "0.3"], "options": {"density": "1/2", "merge_by": "linear"}},
    ),
    "dare_ties": (
        "merge_method: dare_ties" + DENSE + "parameters: {rescale: true}\n",
        {
            "strategy": "dare",
            "weights": ["0.5", "0.3"],
            "options": {"density": "1/2", "merge_by": "ties", "combine": "sum"},
        },
    ),
    "dare_ties, normalised": (
        "merge_method: dare_ties" + DENSE + "parameters: {normalize: true}\n",
        {"strategy": "dare", "weights": ["0.5", "0.3"], "options": {"density": "1/2", "merge_by": "ties"}},
    ),
    "slerp": (
        "merge_method: slerp\nbase_model: a\nparameters: {t: 0.25}\n" + PLAIN,
        {"strategy": "slerp", "options": {"t": "0.25"}},
    ),
    "slerp from the second": (
        "merge_method: slerp\nbase_model: b\nparameters: {t: 0.25}\n" + PLAIN,
        {"strategy": "slerp", "options": {"t": "0.25"}, "revisions": ["b", "a"]},
    ),
    "slerp from what is not listed": (
        "merge_method: slerp\nbase_model: b\nparameters: {t: 0.25}\nmodels: [{model: a}]\n",
        {"strategy": "slerp", "options": {"t": "0.25"}, "revisions": ["b", "a"]},
    ),
    "slerp on the base of both": (
        "merge_method: slerp\nbase_model: base\nparameters: {t: 0.25}\n" + PLAIN,
        {"strategy": "slerp", "options": {"t": "0.25"}},
    ),
    "model_stock": (
        "merge_method: model_stock\nbase_model: base\nparameters: {filter_wise: false}\n" + PLAIN,
        {"strategy": "model-stock"},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_a_recipe_is_the_same_merge_given_by_options(world: World, name: str) -> None:
    text, given = SAME[name]
    options = {key: value for key, value in given.items() if key != "revisions"}
    revisions = given.get("revisions", ["a", "b"])
    store = world.store
    place = f"by-{list(SAME).index(name)}"
    done = store.merge_recipe(written(world, text), name=place).made
    again = store.merge(revisions, name=place, **options)
    assert again.unchanged, (store.show(place).recipe, done.coefficients)
    assert again.commit == done.commit
    assert store.commit_record(done.commit).edge == "merged"
    other = store.merge(revisions, name=f"{place}-other", **options)
    assert store.show(f"{place}-other").recipe == store.show(place).recipe
    for key, tensor in store.state_dict(place).items():
        assert tensor.equal(store.state_dict(f"{place}-other")[key])
    assert other.parents == done.parents
    if done.coefficients.keys() == {"a", "b"} and "slerp" not in name and "stock" not in name:
        assert store.unmerge(place, "b").coefficients.keys() == {"a"}


def test_where_the_result_differs_from_mergekits_is_said(world: World) -> None:
    def differs(name: str) -> str:
        return world.store.merge_recipe(written(world, SAME[name][0]), name="said").differs

    assert differs("linear") == differs("task_arithmetic") == differs("ties") == ""
    assert "whole weights tensor by tensor" in differs("slerp")
    assert "ratio for each tensor" in differs("model_stock")
    assert "at random" in differs("dare_linear")
    everything = "merge_method: dare_linear\nbase_model: base\nparameters: {weight: 1}\n" + PLAIN
    assert world.store.merge_recipe(written(world, everything), name="said").differs == ""


LINEAR = "merge_method: linear\n"
TASK = "merge_method: task_arithmetic\nbase_model: base\n"
REFUSED = {
    "models: [{model: a}]": "`merge_method` is missing",
    LINEAR: "`models` lists no models",
    LINEAR + "models: []": "`models` lists no models",
    LINEAR + "models: a": "`models` lists no models",
    LINEAR + "models: [a, b]": "entry 1 of `models` names no model",
    LINEAR + "models: [{model: 12}]": "entry 1 of `models` names no model",
    LINEAR + "models: [{model: {path: a}}]": "entry 1 of `models` names no model",
    LINEAR + "models: [{model: a, lora: b}]": "`lora` in entry 1 of `models`",
    LINEAR + "models: [{model: a}, {model: a}]": "lists 'a' twice",
    LINEAR + PLAIN: "`weight` of 'a' is missing",
    "merge_method: karcher\n" + PLAIN: "`merge_method: karcher` is none",
    "merge_method: [linear]\n" + PLAIN: "`merge_method: a list` is none",
    "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}]": "`slices` has no meaning",
    "merge_method: linear\nmodules: {}": "`modules` has no meaning",
    LINEAR + "chat_template: auto" + TWO: "`chat_template` has no meaning",
    LINEAR + "tokenizer: {source: base}" + TWO: "`tokenizer` has no meaning",
    LINEAR + "tokenizer_source: union" + TWO: "`tokenizer_source: union` is not done",
    LINEAR + "tokenizer_source: a" + TWO: "`tokenizer_source: a` is not done",
    LINEAR + "name: first" + TWO: "`name` has no meaning",
    LINEAR + "dtype: float16" + TWO: "`dtype: float16` would convert",
    LINEAR + "out_dtype: 16" + TWO: "`out_dtype: 16` is not a data type",
    LINEAR + "parameters: {density: 0.5}" + TWO: "`density` in `parameters` is not a parameter of linear",
    LINEAR + "parameters: [normalize]" + TWO: "`parameters` is not a list of parameters",
    LINEAR + "parameters: {normalize: 1}" + TWO: "`normalize: 1` is neither true nor false",
    LINEAR + "parameters: {normalize: false}" + TWO: "scales the base too",
    LINEAR + "parameters: {weight: [0, 0.5, 1]}\n" + PLAIN: "`weight` in `parameters` is a gradient",
    LINEAR
    + "parameters: {weight: [{filter: mlp, value: 1}, {value: 0}]}\n"
    + PLAIN: "depends on tensors' names (filter)",
    LINEAR + "parameters: {weight: {value: 1}}\n" + PLAIN: "depends on tensors' names (filter)",
    LINEAR + "parameters: {weight: much}\n" + PLAIN: "`weight: much` of 'a' is not a number",
    LINEAR + "parameters: {weight: true}\n" + PLAIN: "`weight: True` of 'a' is not a number",
    LINEAR + "parameters: {weight: .nan}\n" + PLAIN: "`weight: nan` of 'a' is not a number",
    LINEAR + f"parameters: {{weight: 0x1{'0' * 5000}}}\n" + PLAIN: "`weight: a very large number` of 'a'",
    LINEAR + "base_model: base" + TWO: "`weight` of 'base' is missing",
    LINEAR + "base_model: [base]" + TWO: "`base_model` is not a name",
    LINEAR + "models: [{model: a, parameters: {normalize: true}}]": "`normalize` in `parameters` of 'a' is for all",
    LINEAR + "parameters: {weight: 1, normalize: true}\nmodels: [{model: a, parameters: 3}]": "of 'a' is not a list",
    "merge_method: task_arithmetic" + TWO: "`base_model` is missing",
    TASK + "parameters: {normalize: true, lambda: 2}" + TWO: "`lambda` together with `normalize: true`",
    TASK + "models: [{model: base}]": "nothing but the base_model",
    TASK + "models: [{model: base, parameters: {weight: 1}}, {model: a}]": "`parameters` of 'base' mean nothing",
    "merge_method: task_arithmetic\nbase_model: b" + TWO: "`parameters` of 'b' mean nothing",
    "merge_method: task_arithmetic\nbase_model: b\nmodels: [{model: a, parameters: {weight: 1}}]": "is a variant",
    "merge_method: task_arithmetic\nbase_model: second" + TWO: "is not the base of 'a', which is 'base'",
    "merge_method: task_arithmetic\nbase_model: org/base" + TWO: "`base_model: org/base` is not a base of the store",
    "merge_method: task_arithmetic\nbase_model: a + b" + TWO: "A base_model needs a commit",
    "merge_method: ties\nbase_model: base\nparameters: {rescale: true}"
    + TWO: "`rescale: true` is not supported for ties",
    "merge_method: ties\nbase_model: base\nparameters: {weight: 1}\n"
    "models: [{model: a, parameters: {density: 0.5}}, {model: b}]": "`density` differs from model to model",
    "merge_method: ties\nbase_model: base\nparameters: {density: 0}" + TWO: "density of 0",
    "merge_method: ties\nbase_model: base\nparameters: {weight: -1}\n" + PLAIN: "none can be negative",
    "merge_method: dare_linear\nbase_model: base\nparameters: {rescale: false}" + TWO: "`rescale: false`",
    "merge_method: dare_linear\nbase_model: base\nparameters: {normalize: true}"
    + TWO: "`normalize: true` is not supported for dare_linear",
    "merge_method: slerp\nbase_model: a\n" + PLAIN: "`t` is missing",
    "merge_method: slerp\n" + PLAIN: "`base_model` is missing",
    "merge_method: slerp\nbase_model: a\nparameters: {t: [0, 1]}\n" + PLAIN: "`t` in `parameters` is a gradient",
    "merge_method: slerp\nbase_model: a\nparameters: {t: 1}\nmodels: [{model: a}]": "there are 1",
    "merge_method: model_stock\nbase_model: base\nparameters: {filter_wise: true}\n" + PLAIN: "`filter_wise: true`",
    "merge_method: model_stock\nbase_model: base"
    + TWO: "`weight` in `parameters` of 'a' is not a parameter of model_stock",
    "merge_method: linear\nmodels: [{model: a + b, parameters: {weight: 1}}]": "expression",
    "": "not a merge configuration",
    "- linear": "not a merge configuration",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_has_no_meaning_here_is_refused_by_name(world: World, text: str) -> None:
    before = world.store.refs.all()
    with pytest.raises(UsageError) as refused:
        world.store.merge_recipe(written(world, text), name="refused")
    assert REFUSED[text] in refused.value.message
    assert refused.value.hint
    assert world.store.refs.all() == before


def test_a_model_that_is_no_revision(world: World) -> None:
    with pytest.raises(UnknownRevisionError, match="nothing"):
        world.store.merge_recipe(
            written(world, LINEAR + "parameters: {weight: 1}\nmodels: [{model: nothing}]"), name="x"
        )


def test_data_types_and_vocabulary_are_those_of_the_base(world: World, tmp_path: Path) -> None:
    plain = World(tmp_path)
    plain.base = {key: tensor.float() for key, tensor in plain.base.items() if tensor.is_floating_point()}
    from test_algebra import save

    plain.store.import_base(save(tmp_path / "single", plain.base), name="single")
    grown = plain.tune(plain.base)
    for name, tensors in (("one", grown), ("wide", grown | {"embed.weight": plain.noise(52, 24)})):
        plain.store.commit(save(tmp_path / name, tensors), base="single", name=name)
    head = "merge_method: linear\ndtype: {}\nout_dtype: float32\ntokenizer_source: base\nparameters: {{weight: 1}}\n"
    text = head + "models: [{{model: one}}, {{model: one~0}}]"
    for name in ("float32", "torch.float32"):
        assert plain.store.merge_recipe(written(plain, text.format(name)), name="x").made.coefficients
    with pytest.raises(UsageError, match="which are float32"):
        plain.store.merge_recipe(written(plain, text.format("bfloat16")), name="x")
    with pytest.raises(UsageError, match="bfloat16 and float32"):
        world.store.merge_recipe(written(world, LINEAR + "dtype: float32" + TWO), name="x")
    with pytest.raises(UsageError, match="words that 'wide' added"):
        plain.store.merge_recipe(written(plain, text.format("float32").replace("one~0", "wide")), name="x")


def test_numbers_are_kept_as_they_are_written() -> None:
    text = LINEAR + "models: [{model: a, parameters: {weight: 0.1}}, {model: b, parameters: {weight: 1e-3}}]"
    found = read_mergekit(yaml.safe_load(text))
    assert found == MergekitMerge("weighted", ("a", "b"), (Fraction(1, 10), Fraction(1, 1000)))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{two}: &{two} [{', '.join(['*' + one] * 9)}]\n" for one, two in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    LAUGHS: "aliases are not followed; write it out (line 2)",
    "a: &a {b: 1}\nc: {<<: *a}": "aliases are not followed",
    "a: {<<: {b: 1}}": "a key is not text",
    "a: 1\nb: 2\n'a': 3": "the key 'a' comes twice (line 3)",
    "models:\n  - {model: a, model: b}": "the key 'model' comes twice",
    "1: a": "a key is not text",
    "yes: a": "a key is not text",
    "{[a]: b}": "a key is not text",
    "a: !!python/object/apply:os.system [ls]": "tags are not followed",
    "a: !!int ''": "tags are not followed",
    "--- a\n--- b": "expected a single document",
    "a: [": "expected",
    "a: b: c": "mapping values are not allowed here (line 1)",
    "[" * 20000: "nested too deeply",
    "{a: " * 15000: "nested too deeply",
    "- " * 20000: "nested too deeply",
    "a: " + "1" * 10000: "limit",
    "a: 2001-02-30": "day",
    "a: " + "1:" * 9000 + "1.5": "int too large",
    "a: \x01": "special characters",
    "a: " + "x" * LARGEST: "more than 64 KiB",
}


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_yaml_is_refused_at_once(tmp_path: Path, number: int) -> None:
    text, reason = list(HOSTILE.items())[number]
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_yaml(path)
    assert reason in refused.value.message
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 400


def test_what_is_no_readable_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        read_yaml(tmp_path / "nothing")
    with pytest.raises(AccessError, match="directory"):
        read_yaml(tmp_path)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(ErestoreError, match="cannot be read"):
        read_yaml(tmp_path / "binary")
    (tmp_path / "good").write_text("a: [1, 0.5, true, null, text]\n", encoding="utf-16")
    assert read_yaml(tmp_path / "good") == {"a": [1, 0.5, True, None, "text"]}
