"""Calibrating a base: what is measured, where it is kept, and what commits make of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CheckpointError, CorruptionError, UnsupportedFormatError, UsageError
from erestore.objects import calibration as stored_calibration
from erestore.objects.calibration import Calibration, block_ranges
from erestore.storage.calibrations import calibration_log, newest_note

CONFIG = BertConfig(
    vocab_size=200,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
QUERY = "encoder.layer.1.attention.self.query.weight"
WIDE = "encoder.layer.0.output.dense.weight"


def inputs(number: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Sentences of a few words that come again and again; the last ones are padded."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(number):
        mask = torch.ones(3, 12, dtype=torch.int64)
        mask[1, 7:] = 0
        words = torch.randint(10, (3, 12), generator=generator)
        found.append({"input_ids": torch.where(mask > 0, words, 150), "attention_mask": mask})
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and a fine-tune of it in which all layers moved a little."""
    directory = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)
    model = BertModel(CONFIG)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    model.save_pretrained(directory / "base")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("encoder") and parameter.ndim == 2:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    model.save_pretrained(directory / "tuned")
    return directory


@pytest.fixture
def store(models: Path, tmp_path: Path) -> Store:
    found = Store.init(tmp_path / "store")
    found.import_base(models / "base", name="base")
    return found


def base_oid(store: Store) -> str:
    return store.manifest_of("base").base


def calibration(store: Store) -> Calibration:
    found = Calibration.of_base(store.objects, base_oid(store))
    assert found is not None
    return found


def seen(model: BertModel, examples: list[dict[str, torch.Tensor]], layer: str) -> np.ndarray:
    """All that goes into one layer, without padding, float64."""
    rows: list[np.ndarray] = []
    module = model.get_submodule(layer)
    handle = module.register_forward_pre_hook(lambda _, given: rows.append(given[0].double().numpy()))
    with torch.no_grad():
        for example in examples:
            model(**example)
            rows[-1] = rows[-1][example["attention_mask"].numpy() > 0]
    handle.remove()
    return np.concatenate(rows)


@pytest.mark.parametrize("block", [1024, 50])
def test_moments_are_those_of_what_goes_in(store: Store, models: Path, monkeypatch, block: int) -> None:
    monkeypatch.setattr(stored_calibration, "BLOCK", block)
    examples = inputs(6, 1)
    done = store.calibrate("base", examples)
    assert (done.samples, done.tensors) == (6, 13)
    model = BertModel.from_pretrained(models / "base").eval()
    for key in (QUERY, WIDE):
        rows = seen(model, examples, key.removesuffix(".weight"))
        expected = rows.T @ rows / len(rows)
        found = calibration(store).moments(key)
        assert found is not None
        assert found.columns == rows.shape[1]
        assert len(found.blocks) == -(-rows.shape[1] // block)
        for (start, stop), moments in zip(block_ranges(rows.shape[1]), found.blocks, strict=True):
            part = expected[start:stop, start:stop]
            # Correlations have eleven bits.
            sizes = np.sqrt(np.outer(part.diagonal(), part.diagonal()))
            assert np.abs(moments.numpy() - part).max() < 6e-4 * sizes.max()
            assert moments.diagonal().numpy() == pytest.approx(part.diagonal(), rel=1e-5)


def test_layers_with_the_same_inputs_share_what_is_kept(store: Store) -> None:
    store.calibrate("base", inputs(2, 1))
    tensors = calibration(store).tensors
    layer = "encoder.layer.0.attention.self"
    assert len({tensors[f"{layer}.{name}.weight"] for name in ("query", "key", "value")}) == 1
    assert tensors[QUERY] != tensors[f"{layer}.query.weight"]


def test_a_live_model_is_measured_and_left_as_it_was(store: Store, models: Path) -> None:
    examples = inputs(3, 1)
    store.calibrate("base", examples)
    before = calibration(store)
    model = BertModel.from_pretrained(models / "base").train()
    store.calibrate("base", (tuple(example.values()) for example in examples), model=model)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    after = calibration(store)
    assert after.tensors == before.tensors
    # Positional arguments have no mask: padding counts.
    assert not torch.equal(after.moments(QUERY).blocks[0], before.moments(QUERY).blocks[0])


def answers(store: Store, revision: str, examples: list[dict[str, torch.Tensor]], models: Path) -> torch.Tensor:
    model = BertModel.from_pretrained(models / "base").eval()
    model.load_state_dict(dict(store.state_dict(revision)))
    with torch.no_grad():
        found = [model(**each).last_hidden_state[each["attention_mask"] > 0] for each in examples]
    return torch.cat(found).double()


@pytest.mark.parametrize("budget", [40_000, 70_000])
def test_a_calibrated_commit_loses_less_of_the_answers_for_as_many_bytes(
    store: Store, models: Path, budget: int
) -> None:
    store.calibrate("base", inputs(30, 1))
    sizes, errors = [], []
    expected = None
    store.commit(models / "tuned", base="base", name="exact", quality=Quality(exact_only=True))
    expected = answers(store, "exact", inputs(20, 2), models)
    for objective in ("frobenius", "calibrated"):
        quality = Quality(budget=budget, objective=objective)
        sizes.append(store.commit(models / "tuned", base="base", name=objective, quality=quality).stored_bytes)
        errors.append(float((answers(store, objective, inputs(20, 2), models) - expected).square().mean()))
    assert sizes[1] <= budget
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert errors[1] < 0.7 * errors[0]


def test_commits_use_a_calibration_where_there_is_one_unless_told_not_to(store: Store, models: Path) -> None:
    def objective(**asked: object) -> str | None:
        done = store.commit(models / "tuned", base="base", name="a", quality=Quality(**asked))
        kept = store.commit_record(done.commit).quality.get("objective")
        return f"{kept}, again" if done.unchanged else kept

    with pytest.raises(UsageError, match="not been calibrated"):
        objective(objective="calibrated")
    assert objective() is None
    assert objective(objective="frobenius") == "frobenius"
    assert objective(objective="frobenius") == "frobenius, again"
    store.calibrate("base", inputs(3, 1))
    assert objective() == "calibrated"
    assert objective(objective="calibrated") == "calibrated, again"
    assert objective(objective="frobenius") == "frobenius"
    assert objective(exact_only=True) is None
    assert objective(codec="ere", rank=4) is None
    assert store.commit(models / "tuned", base="base", name="b").relative_error <= 0.01


@pytest.mark.parametrize("asked", [{"codec": "ere"}, {"exact_only": True}])
def test_an_objective_is_refused_where_nothing_is_rounded_by_it(asked) -> None:
    for objective in ("calibrated", "frobenius"):
        with pytest.raises(UsageError, match="has no effect"):
            Quality(objective=objective, **asked)
    with pytest.raises(UsageError, match="objective"):
        Quality(objective="entropy")


def test_exact_commits_are_exact_over_a_calibrated_base(store: Store, models: Path) -> None:
    store.calibrate("base", inputs(3, 1))
    store.commit(models / "tuned", base="base", name="a", quality=Quality(exact=True))
    expected = BertModel.from_pretrained(models / "tuned").state_dict()
    found = store.state_dict("a")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_calibration_goes_with_its_base(store: Store, models: Path) -> None:
    note, base = store.calibrate("base", inputs(3, 1)).note, base_oid(store)
    store.commit(models / "tuned", base="base", name="a")
    assert store.gc(grace_days=0).deleted_objects == 0
    assert (store.fsck(read_data=True).clean, store.fsck().unreachable) == (True, ())
    assert store.du().other_bytes == 0
    for name in ("a", "base"):
        tiny.delete_ref(store, name)
    store.gc(grace_days=0)
    assert newest_note(store.storage, base) == note  # reflogs still lead to the base
    tiny.make_older(store.storage, 1000 * tiny.DAY)
    store.gc()
    assert store.objects.exists(note)  # condemned
    tiny.make_older(store.storage, 1000 * tiny.DAY)
    store.gc()
    assert list(store.objects.list()) == []
    assert list(store.storage.list("calibrations/")) == []


def test_a_new_calibration_takes_the_place_of_the_former(store: Store) -> None:
    first, second = (store.calibrate("base", inputs(3, seed)).note for seed in (1, 2))
    assert newest_note(store.storage, base_oid(store)) == second != first
    assert store.fsck().unreachable == (first,)
    tiny.make_older(store.storage, 1000 * tiny.DAY)
    store.gc(grace_days=0, reflog_days=0)
    assert not store.objects.exists(first)
    assert len(calibration_log(store.storage, base_oid(store)).numbers()) == 1
    assert store.fsck(read_data=True).clean


def test_notes_of_another_kind_are_kept(store: Store) -> None:
    with store.objects.writer("note") as writer:
        oid = writer.finish({"features": ["of tomorrow"], "what": "not known"})[0]
    store.gc(grace_days=0)
    assert store.objects.exists(oid)
    with pytest.raises(UnsupportedFormatError):
        Calibration.open(store.objects, oid)


def test_damage_is_found(store: Store, tmp_path: Path) -> None:
    note = store.calibrate("base", inputs(3, 1)).note
    path = tmp_path / "store" / "objects" / note[:2] / note[2:]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    (found,) = store.fsck(read_data=True).corrupt
    assert (found.oid, found.kind) == (note, "note")
    path.unlink()
    (found,) = store.fsck().missing
    assert (found.oid, found.kind) == (note, "note")
    assert found.needed_by == ("base",)


def test_a_damaged_entry_is_found(store: Store) -> None:
    store.calibrate("base", inputs(3, 1))
    calibration_log(store.storage, base_oid(store)).append(1, b'{"note":"gone"}', lambda _: True)
    assert [each.key for each in store.fsck().entries] == [f"calibrations/{base_oid(store)}/{2:016d}"]
    with pytest.raises(CorruptionError):
        store.gc(grace_days=0)


@pytest.mark.parametrize("change", ["squares", "correlations", "columns", "segment", "base", "shape", "samples"])
def test_hostile_notes_are_refused(store: Store, change: str) -> None:
    content = np.array([1.0, 2.0], "<f4").tobytes() + np.array([0.5], "<f2").tobytes()
    tensors: object = {QUERY: [2, 0]}
    base = base_oid(store)
    if change == "squares":
        content = np.array([1.0, np.nan], "<f4").tobytes() + content[8:]
    if change == "correlations":
        content = content[:8] + np.array([1.5], "<f2").tobytes()
    if change == "columns":
        tensors = {QUERY: [1 << 40, 0]}
    if change == "segment":
        tensors = {QUERY: [2, -1]}
    if change == "base":
        base = "0" * 64
    if change == "shape":
        tensors = {QUERY: "2, 0"}
    with store.objects.writer("note") as writer:
        writer.add(content, raw_length=len(content), stage="raw")
        index = {
            "base": base,
            "features": ["calibration", "raw"],
            "samples": "many" if change == "samples" else 1,
            "tensors": tensors,
        }
        oid = writer.finish(index).oid
    calibration_log(store.storage, base_oid(store)).append(0, b'{"note":"%s"}' % oid.encode(), lambda _: True)
    with pytest.raises(CorruptionError):
        calibration(store).moments(QUERY)


def test_what_cannot_be_calibrated_is_said(store: Store, models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no examples"):
        store.calibrate("base", [])
    with pytest.raises(UsageError, match="mixed"):
        store.calibrate("base", [*inputs(1, 1), "a text"])
    with pytest.raises(CheckpointError, match="no word"):
        store.calibrate("base", ["a text"])  # transformers makes up an empty tokenizer where there is none
    store.commit(models / "tuned", base="base", name="a")
    with pytest.raises(UsageError, match="variant"):
        store.calibrate("a", inputs(1, 1))
    with pytest.raises(CheckpointError, match="architecture"):
        store.calibrate("base", [torch.ones(1, 3)], model=torch.nn.Linear(3, 3))
    save_file({"weight": torch.ones(40, 30)}, tmp_path / "bare.safetensors")
    store.import_base(tmp_path / "bare.safetensors", name="bare")
    with pytest.raises(CheckpointError, match="bare file"):
        store.calibrate("bare", [torch.ones(1, 30)])
    linear = torch.nn.Linear(30, 40, bias=False)
    with pytest.raises(UsageError, match="not finite"):
        store.calibrate("bare", [torch.full((1, 30), torch.inf)], model=linear)
    assert store.calibrate("bare", [torch.ones(1, 30)] * 2, model=linear).samples == 2
    assert list(store.storage.list("gc/leases/")) == []


def test_a_base_that_is_given_by_its_path_is_calibrated_too(store: Store, models: Path) -> None:
    store.calibrate("base", inputs(3, 1))
    for objective in (None, "calibrated"):
        done = store.commit(
            models / "tuned",
            base=str(models / "base"),
            name=f"by-path-{objective}",
            quality=Quality(objective=objective),
        )
        assert store.commit_record(done.commit).quality["objective"] == "calibrated"


def test_what_was_committed_is_committed_again_after_another_calibration(store: Store, models: Path) -> None:
    notes = []
    for seed in (1, 2):
        notes.append(store.calibrate("base", inputs(3, seed)).note)
        done = store.commit(models / "tuned", base="base", name="a")
        assert not done.unchanged
        assert store.commit_record(done.commit).quality["calibration"] == notes[-1]
        assert store.commit(models / "tuned", base="base", name="a").unchanged
    assert len(set(notes)) == 2


def test_weights_under_names_of_their_own_are_those_of_the_base(store: Store, models: Path, tmp_path: Path) -> None:
    """Transformers makes weights up where it does not find them."""
    expected = store.calibrate("base", inputs(3, 1))
    shutil.copytree(models / "base", tmp_path / "odd")
    weights = load_file(models / "base" / "model.safetensors")
    save_file({f"model.{name}": value for name, value in weights.items()}, tmp_path / "odd" / "model.safetensors")
    odd = store.import_base(tmp_path / "odd", name="odd").commit
    assert store.calibrate("odd", inputs(3, 1)).tensors == expected.tensors
    found = Calibration.of_base(store.objects, store.manifest_of(odd).base)
    assert found is not None
    assert torch.equal(found.moments(f"model.{QUERY}").blocks[0], calibration(store).moments(QUERY).blocks[0])


class Uneven(torch.nn.Module):
    """Two layers that share their input at first, the second also by its name, and one that is in evaluation already."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(30, 30, bias=False), torch.nn.Linear(30, 30, bias=False)
        self.still = torch.nn.Dropout().eval()
        self.kept: torch.Tensor | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.kept = self.a(input=values)
        return self.b(values) + self.b(100 * self.kept)


def test_any_live_model_is_seen_as_it_is_and_left_so(store: Store, tmp_path: Path) -> None:
    model = Uneven().train()
    model.still.eval()
    save_file(
        {"a.weight": model.a.weight.detach(), "b.weight": model.b.weight.detach()}, tmp_path / "uneven.safetensors"
    )
    base = store.import_base(tmp_path / "uneven.safetensors", name="uneven").commit
    values = torch.randn(50, 30, generator=torch.Generator().manual_seed(3))
    store.calibrate("uneven", [values[:20], values[20:]], model=model)
    assert (model.training, model.still.training) == (True, False)
    found = Calibration.of_base(store.objects, store.manifest_of(base).base)
    assert found is not None
    rows = torch.cat([values, 100 * model.a(values).detach()]).double()
    for key, seen_rows in (("a.weight", values.double()), ("b.weight", rows)):
        moments = seen_rows.T @ seen_rows / len(seen_rows)
        assert found.moments(key).blocks[0].diagonal().numpy() == pytest.approx(moments.diagonal().numpy(), rel=1e-4)
    assert model.kept is not None
    (model.kept * model.a.weight.sum()).sum().backward()  # what a model keeps of a call can still be trained with


def test_what_a_model_cannot_take_is_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be run"):
        store.calibrate("base", [{"input_ids": torch.zeros(1, 99, dtype=torch.int64)}])  # more than there are positions
    with pytest.raises(CheckpointError, match="cannot be run"):
        store.calibrate("base", [3])  # type: ignore[list-item]
    model = torch.nn.Conv1d(4, 4, 3)
    save_file({name: value.detach() for name, value in model.state_dict().items()}, tmp_path / "conv.safetensors")
    store.import_base(tmp_path / "conv.safetensors", name="conv")
    with pytest.raises(UsageError, match=r"no layer .*torch\.nn\.Linear"):
        store.calibrate("conv", [torch.ones(1, 4, 9)], model=model)


def test_damage_to_the_log_is_no_damage_of_the_base(store: Store, models: Path) -> None:
    store.commit(models / "tuned", base="base", name="a")
    store.calibrate("base", inputs(3, 1))
    calibration_log(store.storage, base_oid(store)).append(1, b"{}", lambda _: True)
    found = store.fsck()
    assert (found.corrupt, found.missing, len(found.entries)) == ((), (), 1)
    for use in (lambda: store.gc(grace_days=0), lambda: store.commit(models / "tuned", base="base", name="b")):
        with pytest.raises(CorruptionError, match="calibrations/") as refused:
            use()
        assert "erestore calibrate" in refused.value.hint
    store.commit(models / "tuned", base="base", name="b", quality=Quality(objective="frobenius"))
    store.calibrate("base", inputs(3, 1))
    store.commit(models / "tuned", base="base", name="b")
    store.gc(grace_days=0)


def test_moments_are_prepared_once_for_layers_that_share_them(
    store: Store, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.calibrate("base", inputs(3, 1))
    prepared = []
    of = stored_calibration.Metric.of
    monkeypatch.setattr(stored_calibration.Metric, "of", lambda *given: prepared.append(given[1]) or of(*given))
    held = calibration(store)
    for name in ("key", "query", "value"):
        assert held.metrics(f"encoder.layer.0.attention.self.{name}.weight", 64) is not None
    assert len(prepared) == 1
