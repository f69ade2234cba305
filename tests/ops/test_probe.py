"""Probes against dense computations of the same, on small stores; and what cannot be probed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from erestore.analysis.probe.settings import ProbeSettings
from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CheckpointError, NotFoundError, UnknownRevisionError, UsageError
from erestore.residual.codecs import ere
from erestore.residual.noise import NormalNoise
from erestore.variant.variant import Variant

SIGMAS = (0.05, 0.3)
SHARES = (1.0, 0.9, 0.5, 0.1, 0.0)
SHARED = ("dense.bias", "dense.weight", "embedding.weight", "scale")
MATRICES = ("dense.weight", "embedding.weight")
CONFIG = BertConfig(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=20,
)

Values = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a base and exact variants: of all kinds of tensors, of a BERT, and some that have little to probe."""
    directory = tmp_path_factory.mktemp("probes")
    store = Store.init(directory / "store")
    base = tiny.base_weights()
    store.import_base(tiny.write_model(directory / "base", base), name="base")
    broken = tiny.tuned(base, 2)
    broken["dense.weight"][3, 4] = math.nan
    for name, weights in {
        "ft": tiny.tuned(base, 1),
        "broken": broken,
        "same": base,
        "vectors": {**base, "dense.bias": base["dense.bias"] + 1},
    }.items():
        store.commit(tiny.write_model(directory / name, weights), base="base", name=name, quality=tiny.EXACT)
    torch.manual_seed(3)
    model = BertForMaskedLM(CONFIG)
    model.save_pretrained(directory / "bert")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    model.save_pretrained(directory / "tuned")
    store.import_base(directory / "bert", name="bert")
    store.commit(directory / "tuned", base="bert", name="tuned", quality=tiny.EXACT)
    return directory


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    """The store, which no probe may change."""
    found = Store.open(place / "store")
    before = {entry.key: (entry.size, entry.modified) for entry in found.storage.list()}
    yield found
    assert {entry.key: (entry.size, entry.modified) for entry in found.storage.list()} == before


def dense(store: Store, revision: str = "ft") -> tuple[Values, Values]:
    """What base and variant share, float64: the base's values and the variant's."""
    base = {name: store.state_dict("base")[name].double() for name in SHARED}
    own = {name: store.state_dict(revision)[name].double() for name in SHARED}
    own["embedding.weight"] = own["embedding.weight"][:64]
    return base, own


def changed(values: Values, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Values:
    return {name: change(name, value) for name, value in values.items()}


def noisy(sigma: float, seed: int = 0) -> Callable[[str, torch.Tensor], torch.Tensor]:
    def change(name: str, value: torch.Tensor) -> torch.Tensor:
        rows = value.reshape(len(value), -1) if value.ndim > 1 else value.reshape(1, -1)
        numbers = torch.from_numpy(NormalNoise(seed, name).rows(*rows.shape)).double()
        return value * torch.exp(sigma * numbers).reshape(value.shape)

    return change


def lower(share: float) -> Callable[[str, torch.Tensor], torch.Tensor]:
    def change(name: str, value: torch.Tensor) -> torch.Tensor:
        if name not in MATRICES:
            return value
        left, values, right = torch.linalg.svd(value, full_matrices=False)
        rank = math.floor(share * len(values) + 0.5)
        return (left[:, :rank] * values[:rank]) @ right[:rank]

    return change


def altered(base: Values, own: Values, part: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Values:
    """The variant after a change of all its weights, or of its residual."""
    if part == "weights":
        return changed(own, change)
    residual = changed({name: own[name] - base[name] for name in own}, change)
    return {name: base[name] + residual[name] for name in own}


def distance(one: Values, other: Values) -> float:
    return sum(float((one[name] - other[name]).square().sum()) for name in one)


class Seen:
    """Features that are the weights themselves, and all that they were asked for."""

    def __init__(self, names: tuple[str, ...] = SHARED) -> None:
        self.names = names
        self.found: list[Values] = []

    def __call__(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self.found.append({name: weights[name].clone() for name in weights})
        return torch.stack([weights["dense.weight"].flatten()[:200], weights["embedding.weight"].flatten()[:200]])


@pytest.mark.parametrize("probe", ["perturb", "truncate"])
def test_errors_and_weights_are_those_of_dense_arithmetic(store: Store, probe: str) -> None:
    seen = Seen()
    settings = ProbeSettings((probe,), sigmas=SIGMAS, shares=SHARES)
    result = store.probe("ft", settings=settings, features=seen)
    points = (result.perturb or result.truncate).points
    base, own = dense(store)
    whole, residual = distance(own, changed(own, lambda _, value: 0 * value)), distance(own, base)
    steps = [(part, step) for part in ("weights", "residual") for step in (SIGMAS if probe == "perturb" else SHARES)]
    assert [(point.part, point.sigma if probe == "perturb" else point.share) for point in points] == steps
    # The first time is the variant itself, the second its base.
    for (part, step), point, given in zip(steps, points, seen.found[2:], strict=True):
        expected = altered(base, own, part, noisy(step) if probe == "perturb" else lower(step))
        error = distance(expected, own)
        assert point.relative_error == pytest.approx(error / residual, rel=1e-6, abs=1e-12)
        assert point.error == pytest.approx(error / (whole if part == "weights" else residual), rel=1e-6, abs=1e-12)
        for name, value in expected.items():
            rows = given[name][: len(value)] if value.ndim else given[name]
            assert rows.dtype == torch.float32
            assert torch.allclose(rows.double(), value, rtol=1e-5, atol=1e-5), (part, step, name)
        before = torch.stack([own[name].flatten()[:200] for name in MATRICES])
        after = torch.stack([expected[name].flatten()[:200] for name in MATRICES])
        cosine = float(torch.nn.functional.cosine_similarity(before, after).mean()) if after.any() else None
        assert point.cosine == (cosine if cosine is None else pytest.approx(cosine, abs=1e-6))


def test_what_is_not_shared_stays_bit_for_bit(store: Store) -> None:
    seen = Seen()
    store.probe("ft", settings=ProbeSettings(sigmas=(0.5,), shares=(0.5, 1.0)), features=seen)
    itself = dict(store.state_dict("ft"))
    assert len(seen.found) == 2 + 2 + 4
    for given in seen.found:
        assert given.keys() == itself.keys()
        assert torch.equal(given["embedding.weight"][64:], itself["embedding.weight"][64:])
        for name in ("head.weight", "position_ids"):
            assert torch.equal(given[name], itself[name])
    for given in (seen.found[0], seen.found[5], seen.found[7]):  # itself, and all of the rank kept
        assert all(torch.equal(given[name], itself[name].to(given[name].dtype)) for name in itself)
    base = store.state_dict("base")
    for name in SHARED:
        value = seen.found[1][name]
        assert torch.equal(value[:64] if name == "embedding.weight" else value, base[name].to(value.dtype))


def test_the_base_is_what_is_left_without_the_residual(store: Store) -> None:
    base, own = dense(store)
    seen = Seen()
    used = store.probe("ft", settings=ProbeSettings(("perturb",), sigmas=(0.1,)), features=seen).features
    cosines = [
        torch.nn.functional.cosine_similarity(own[name].flatten()[:200], base[name].flatten()[:200], dim=0)
        for name in MATRICES
    ]
    assert (used.kind, used.inputs) == ("given", 2)
    assert used.base_cosine == pytest.approx(float(sum(cosines) / 2), abs=1e-6)
    assert store.probe("ft").features is None


def test_one_seed_gives_the_same_numbers_and_another_does_not(store: Store) -> None:
    def points(**settings: object) -> dict[tuple[str, float], float]:
        result = store.probe("ft", settings=ProbeSettings(("perturb",), **settings))
        assert result.perturb.seed == settings.get("seed", 0)
        return {(point.part, point.sigma): point.error for point in result.perturb.points}

    assert points() == points(seed=0)
    assert points(sigmas=(0.2, 0.1)) == {key: value for key, value in points().items() if key[1] in (0.1, 0.2)}
    assert points(seed=1) != points()
    assert points(sigmas=(0.0,)) == {("weights", 0.0): 0.0, ("residual", 0.0): 0.0}


def test_encodings_are_those_of_commits_in_the_codec_ere(store: Store, place: Path, tmp_path: Path) -> None:
    """The same bytes of codes, and the same loss but for the last rounding."""
    shutil.copytree(place / "store", tmp_path / "copy")
    with Store.open(tmp_path / "copy") as other:
        done = store.probe(
            "tuned",
            settings=ProbeSettings(("allocation", "stiefel"), alphas=(0.0, 0.3, 1.0), rank=3, bits=3, alpha=0.3),
        )
        for number, point in enumerate(done.allocation.points):
            name = f"encoded-{number}"
            quality = Quality(codec="ere", rank=3, bits=3, alpha=point.alpha or 0.0, allocation=point.allocation)
            commit = other.commit(place / "tuned", base="bert", name=name, quality=quality)
            assert point.relative_error == pytest.approx(commit.relative_error, rel=1e-4)
            variant = Variant(other.objects, other.manifest_of(name))
            ((_, residual),) = variant.residuals
            kept = [
                section for tensor in residual.tensors.values() for section in tensor.sections if section.codec == "ere"
            ]
            assert point.bytes == sum(length for section in kept for _, _, length in section.parts)
            assert done.allocation.layers == done.stiefel.layers >= len(kept)
            assert point.layers_without == done.allocation.layers - len(kept)
    (same,) = (point for point in done.stiefel.points if point.bits == 3 and point.projected)
    assert same.relative_error == done.allocation.points[2].relative_error
    assert same.bytes == done.allocation.points[2].bytes


def test_the_projection_is_left_out_where_it_is_said_to_be(store: Store) -> None:
    seen: list[Values] = []

    def features(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        seen.append({name: weights[name].double() for name in weights})
        return weights["bert.embeddings.word_embeddings.weight"][:3]

    done = store.probe("tuned", settings=ProbeSettings(("stiefel",), rank=2, alpha=1.0), features=features).stiefel
    assert [(point.projected, point.bits) for point in done.points] == [
        (projected, bits) for projected in (True, False) for bits in range(2, 9)
    ]
    base = {name: value.double() for name, value in store.state_dict("bert").items()}
    name = "bert.encoder.layer.0.output.dense.weight"
    for point, given in zip(done.points, seen[2:], strict=True):
        codes = ere.encode((seen[0][name] - base[name]).float(), 2, point.bits)
        left, values, right = ere.decode(codes, project=point.projected)
        assert torch.allclose(given[name], base[name] + (left * values) @ right.T, atol=1e-6)
    errors = {(point.bits, point.projected): point.relative_error for point in done.points}
    assert errors[2, True] < errors[2, False]


def inputs(seed: int, lengths: tuple[int, ...] = (12, 5)) -> list[Values]:
    """Batches of two, of which the second is padded."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        mask = torch.ones(2, length, dtype=torch.int64)
        mask[1, length // 2 :] = 0
        found.append({"input_ids": torch.randint(60, (2, length), generator=generator), "attention_mask": mask})
    return found


def answers(model: BertModel, weights: Mapping[str, torch.Tensor], examples: list[Values]) -> torch.Tensor:
    """Last hidden states, the mean over what is not padding, of a model with other weights."""
    state = {name.removeprefix("bert."): value for name, value in weights.items() if name.startswith("bert.")}
    model.load_state_dict(state, strict=False)
    found = []
    with torch.no_grad():
        for each in examples:
            states = model.eval()(**each).last_hidden_state
            found += [row[mask > 0].mean(dim=0) for row, mask in zip(states, each["attention_mask"], strict=True)]
    return torch.stack(found).double()


def test_a_live_model_is_asked_and_left_as_it_was(store: Store) -> None:
    """Under names without the prefix that the variant has; with dropout, which must not count."""
    torch.manual_seed(8)
    model = BertModel(CONFIG, add_pooling_layer=False).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = ProbeSettings(sigmas=(0.3,), shares=(0.5,))
    result = store.probe("tuned", settings=settings, inputs=iter(inputs(1)), model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(module.training for module in model.modules())
    assert (result.features.kind, result.features.inputs) == ("last hidden state", 4)
    kept: list[Values] = []
    store.probe("tuned", settings=settings, features=lambda weights: kept.append(dict(weights)) or torch.ones(1, 1))
    reference, *others = (answers(model, weights, inputs(1)) for weights in kept)
    cosines = [float(torch.nn.functional.cosine_similarity(reference, other).mean()) for other in others]
    points = [*result.perturb.points, *result.truncate.points]
    assert [result.features.base_cosine, *(point.cosine for point in points)] == pytest.approx(cosines, abs=1e-6)
    assert all(0 < cosine < 1 for cosine in cosines)


def test_a_live_model_gets_its_weights_back_when_it_cannot_be_run(store: Store) -> None:
    model = BertModel(CONFIG, add_pooling_layer=False).to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="cannot be run"):
        store.probe("tuned", inputs=[{"input_ids": torch.full((1, 3), 999)}], model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Two(torch.nn.Module):
    """A model that is no library's: what it answers is as it is told."""

    def __init__(self, answer: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(48, 32)
        self.embedding = torch.nn.Embedding(66, 32)
        self.answer = answer

    def forward(self, values: torch.Tensor) -> object:
        return self.answer(self.dense(values))


@pytest.mark.parametrize(
    ("answer", "kind", "count"),
    [
        (lambda values: values, "output", 3),
        (lambda values: (values, None), "output", 3),
        (lambda values: {"loss": None, "scores": values}, "output", 3),
        (lambda values: values.mean(dim=0), "output", 1),
        (lambda values: values.unsqueeze(1).expand(-1, 5, -1), "output", 3),
        (lambda values: type("Output", (), {"logits": values, "loss": values.sum()})(), "logits", 3),
    ],
)
def test_answers_of_any_form_are_compared(store: Store, answer: Callable[..., object], kind: str, count: int) -> None:
    values = torch.randn(3, 48, generator=torch.Generator().manual_seed(5))
    settings = ProbeSettings(("perturb",), sigmas=(0.2,))
    result = store.probe("ft", settings=settings, inputs=[values], model=Two(answer))
    assert (result.features.kind, result.features.inputs) == (kind, count)
    weights = [point.cosine for point in result.perturb.points]
    assert 0.9 < weights[0] < weights[1] < 1


def test_a_model_that_answers_nothing_is_refused(store: Store) -> None:
    with pytest.raises(CheckpointError, match="no tensor"):
        store.probe("ft", inputs=[torch.ones(1, 48)], model=Two(lambda _: {"loss": 1.0}))


def test_only_tensors_of_a_pattern_are_altered(store: Store) -> None:
    seen = Seen()
    result = store.probe("ft", settings=ProbeSettings(("perturb",), sigmas=(0.3,)), tensors="dense*", features=seen)
    assert (result.pattern, result.tensors, result.matrices) == ("dense*", 2, 1)
    itself = store.state_dict("ft")
    for given in seen.found:
        assert torch.equal(given["embedding.weight"], itself["embedding.weight"])
    base, own = dense(store)
    residual = own["dense.weight"] - base["dense.weight"], own["dense.bias"] - base["dense.bias"]
    norm = math.sqrt(sum(float(each.square().sum()) for each in residual))
    before = math.sqrt(sum(float(base[name].square().sum()) for name in ("dense.weight", "dense.bias")))
    assert result.relative_norm == pytest.approx(norm / before)


def test_an_expression_is_probed_like_a_variant(store: Store) -> None:
    settings = ProbeSettings(("truncate",), shares=(0.5,))
    half = store.probe("0.5*tuned", settings=settings)
    whole = store.probe("tuned", settings=settings)
    assert (half.commit, whole.commit) == (None, store.resolve("tuned"))
    assert half.relative_norm == pytest.approx(whole.relative_norm / 2, rel=0.01)  # its linear part
    assert half.truncate.points[1].error == pytest.approx(whole.truncate.points[1].error, rel=0.05)


def test_what_is_not_finite_is_left_out_and_named(store: Store) -> None:
    seen = Seen()
    result = store.probe("broken", settings=ProbeSettings(("perturb",), sigmas=(0.1,)), features=lambda w: seen(w)[1:])
    assert (result.left_out, result.tensors, result.matrices) == (("dense.weight",), 3, 1)
    itself = store.state_dict("broken")["dense.weight"].float()
    assert all(torch.equal(each["dense.weight"].nan_to_num(9), itself.nan_to_num(9)) for each in seen.found)
    assert all(math.isfinite(point.relative_error) for point in result.perturb.points)


@pytest.mark.parametrize(
    ("revision", "options", "error", "words"),
    [
        ("nothing", {}, UnknownRevisionError, "no revision"),
        ("base", {}, UsageError, "is a base"),
        ("same", {}, UsageError, "residual is zero"),
        ("ft", {"tensors": "decoder*"}, NotFoundError, "matches 'decoder"),
        ("ft", {"tensors": "position_ids"}, NotFoundError, "floating"),
        ("ft", {"tensors": "*bias"}, UsageError, "no finite matrix"),
        ("broken", {"tensors": "dense.weight"}, UsageError, "no finite matrix"),
        (
            "broken",
            {"tensors": "dense.weight", "settings": ProbeSettings(("perturb",))},
            UsageError,
            "values that are not finite",
        ),
        ("vectors", {"settings": ProbeSettings(("allocation",))}, UsageError, "large enough for factors"),
        ("ft", {"model": torch.nn.Linear(3, 3)}, UsageError, "nothing to run"),
        ("ft", {"inputs": ["a"], "features": Seen()}, UsageError, "not by both"),
        ("ft", {"inputs": []}, UsageError, "no examples"),
        ("ft", {"inputs": ["a", torch.ones(1)], "model": Two(tuple)}, UsageError, "mixed"),
        ("ft", {"inputs": [torch.ones(1), "a"], "model": Two(tuple)}, UsageError, "mixed"),
        ("ft", {"inputs": [torch.ones(1)], "model": torch.nn.Linear(3, 3)}, CheckpointError, "architecture"),
        ("ft", {"inputs": [torch.ones(1, 7)], "model": Two(tuple)}, CheckpointError, "cannot be run"),
        ("ft", {"inputs": [torch.full((1, 48), math.inf)], "model": Two(lambda v: v)}, UsageError, "not finite"),
        ("ft", {"features": lambda _: torch.zeros(2, 3)}, UsageError, "is zero"),
        ("ft", {"features": lambda _: torch.ones(0, 3)}, UsageError, "no features"),
        ("ft", {"features": lambda _: [1.0]}, UsageError, "this is a list"),
        ("ft", {"features": lambda _: torch.ones(2, dtype=torch.complex64)}, UsageError, "real tensor"),
    ],
)
def test_what_cannot_be_probed_is_said(
    store: Store, revision: str, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        store.probe(revision, **options)
    assert raised.value.message.endswith(".")


def test_a_model_of_another_size_is_refused(store: Store) -> None:
    model = Two(tuple)
    model.embedding = torch.nn.Embedding(60, 32)
    with pytest.raises(CheckpointError, match=r"'embedding.weight' is \[60, 32\], and the variant's is \[66, 32\]"):
        store.probe("ft", inputs=[torch.ones(1, 48)], model=model)


def test_features_have_one_shape(store: Store) -> None:
    shapes = iter(((2, 3), (2, 3), (3, 2)))
    with pytest.raises(UsageError, match=r"shape \[3, 2\]"):
        store.probe("ft", features=lambda _: torch.ones(next(shapes)))


def test_answers_that_are_not_finite_have_no_cosine(store: Store) -> None:
    found = iter((1.0, 1.0, math.nan, math.inf, 0.0, 2.0))
    settings = ProbeSettings(("perturb",), sigmas=(0.1, 0.2))
    result = store.probe("ft", settings=settings, features=lambda _: torch.full((2, 3), next(found)))
    assert [point.cosine for point in result.perturb.points] == [None, None, None, pytest.approx(1)]


def test_a_bare_file_has_no_model_of_its_own(tmp_path: Path) -> None:
    store = Store.init(tmp_path / "store")
    for name, shift in (("base", 0), ("ft", 1)):
        save_file({"weight": torch.eye(40, 30) + shift}, tmp_path / f"{name}.safetensors")
    store.import_base(tmp_path / "base.safetensors", name="base")
    store.commit(tmp_path / "ft.safetensors", base="base", name="ft")
    for given in (["a text"], [torch.ones(1, 30)]):
        with pytest.raises(CheckpointError, match="bare file"):
            store.probe("ft", inputs=given)
    live = torch.nn.Linear(30, 40, bias=False)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        store.probe("ft", inputs=["a text"], model=live)
    result = store.probe("ft", settings=ProbeSettings(shares=(1.0, 0.0)), inputs=[torch.ones(1, 30)], model=live)
    assert result.features.kind == "output"
    assert [point.error for point in result.truncate.points] == pytest.approx([0, 1, 0, 1], abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"probes": ("wobble",)}, "no probe 'wobble'"),
        ({"probes": ()}, "No probe is selected"),
        ({"sigmas": (0.1, -0.1)}, "deviation of -0.1"),
        ({"sigmas": (11.0,)}, "between 0 and 10"),
        ({"sigmas": (math.nan,)}, "nan"),
        ({"sigmas": ()}, "No deviation"),
        ({"shares": (1.2,)}, "share of the rank of 1.2"),
        ({"shares": (math.inf,)}, "inf"),
        ({"alphas": (2.0,)}, "alpha of 2"),
        ({"alphas": ()}, "No alpha"),
        ({"alpha": -1.0}, "alpha of -1"),
        ({"rank": 0}, "Ranks"),
        ({"bits": 9}, "bits"),
        ({"seed": -1}, "negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ProbeSettings(**settings)


def test_more_noise_and_less_rank_lose_more(store: Store) -> None:
    result = store.probe("ft")
    for points in (result.perturb.points, result.truncate.points):
        for part in ("weights", "residual"):
            errors = [point.error for point in points if point.part == part]
            assert all(one < other for one, other in pairwise(errors))
