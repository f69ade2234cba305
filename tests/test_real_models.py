"""Every family of real models through a store: exact comes back bit for bit, the default is as good as it says.

What comes back is read by its own library, not by erestore, and errors are computed here, in float64.
"""

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from erestore.api import Store
from erestore.cli.main import cli
from erestore.errors import CheckpointError
from erestore.model.quality import Quality
from erestore.ops.commit import CommitResult

pytestmark = pytest.mark.models

PREFIX = re.compile(r"^(bert|model)\.")
LEFT_OUT = {"optimizer.pt", "scheduler.pt"}

PAIRS = [
    (families.rxnfp, "bert_pretrained", "bert_ft"),
    (families.rxnfp, "bert_pretrained", "bert_ft_10k_25s"),
    (families.minilm_tuned, "base", "movie"),
    (families.chgnet, "0.3.0", "r2scan"),
    (families.glyphive, "ocrb", "courier"),
    (families.glyphive, "ocrb", "dejavu"),
    (families.glyphive, "ocrb", "libmono"),
    (families.silero, "v5", "v6"),
]


@dataclass(frozen=True)
class Pair:
    """A fine-tune in a store, by default quality and exactly."""

    base: Path
    original: Path
    store: Store
    default: CommitResult
    exact: CommitResult

    def checkout(self, name: str, directory: Path) -> Path:
        """Check out into an existing folder where the checkpoint is a file, so that it keeps its own name."""
        target = directory if self.original.is_file() else directory / name
        return Path(self.store.checkout(name, target).path)


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0].__name__}-{pair[2]}")
def pair(request, tmp_path_factory) -> Pair:
    family, base, variant = request.param
    paths = family()
    store = Store.init(tmp_path_factory.mktemp("store"))
    store.import_base(paths[base], name="base")
    default = store.commit(paths[variant], base="base", name="default")
    exact = store.commit(paths[variant], base="base", name="exact", quality=Quality(exact=True))
    return Pair(paths[base], paths[variant], store, default, exact)


def weight_file(path: Path) -> Path:
    if path.is_file():
        return path
    return next(file for file in path.iterdir() if file.name in ("model.safetensors", "pytorch_model.bin"))


def load(path: Path) -> Any:
    """Read weights as their own library does: for safetensors a plain dict, for torch files whatever they hold."""
    file = weight_file(path)
    if file.suffix != ".safetensors":
        return torch.load(file, map_location="cpu", weights_only=True)
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping


def state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    content = load(path)
    return content.get("model", {}).get("state_dict", content)


def content(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def assert_same(one: Any, other: Any) -> None:
    """Compare what torch files hold, in order, in every type and bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, one.requires_grad) == (other.dtype, other.shape, other.requires_grad)
        assert content(one) == content(other)
    elif isinstance(one, Mapping):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other or (math.isnan(one) and math.isnan(other))


def ties(state: Mapping[str, torch.Tensor]) -> set[frozenset[str]]:
    """Names that share memory."""
    groups: dict[int, set[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(tensor.data_ptr(), set()).add(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def side_files(path: Path) -> Iterator[tuple[str, bytes]]:
    for file in path.rglob("*"):
        inside = file.relative_to(path).as_posix()
        if file.is_file() and file != weight_file(path) and file.name not in LEFT_OUT and not inside.startswith("."):
            yield inside, file.read_bytes()


def test_exact_gives_everything_back(pair, tmp_path):
    found = pair.checkout("exact", tmp_path)
    assert pair.exact.exact
    assert_same(load(found), load(pair.original))
    assert ties(state_dict(found)) == ties(state_dict(pair.original))
    if pair.original.suffix == ".safetensors" or weight_file(found).suffix == ".safetensors":
        with safe_open(weight_file(found), "pt") as one, safe_open(weight_file(pair.original), "pt") as other:
            assert one.metadata() == other.metadata()
    if pair.original.is_dir():
        assert weight_file(found).name == weight_file(pair.original).name
        assert dict(side_files(found)) == dict(side_files(pair.original))
        assert len(dict(side_files(found))) >= 2


def test_default_quality_is_what_it_says(pair, tmp_path):
    found, original = (state_dict(path) for path in (pair.checkout("default", tmp_path), pair.original))
    base = {PREFIX.sub("", name): tensor for name, tensor in state_dict(pair.base).items()}
    assert list(found) == list(original)
    lost = moved = 0.0
    for name, tensor in original.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        before = base.get(PREFIX.sub("", name))
        if before is None or not tensor.is_floating_point():
            assert content(found[name]) == content(tensor)
            continue
        lost += float((found[name].double() - tensor.double()).square().sum())
        moved += float((tensor.double() - before.double()).square().sum())
    assert lost / moved <= 0.01
    assert lost / moved == pytest.approx(pair.default.relative_error, rel=1e-6)


def test_sizes(pair):
    """The exact commit was the second in its store, so that it shares the residual with the default one."""
    original, default = pair.default.original_bytes, pair.default.stored_bytes
    together = default + pair.exact.stored_bytes
    if "chgnet" in str(pair.base):  # two thirds of it are an optimizer's moments, which are kept whole
        assert default < 0.7 * original
    else:
        assert default < 0.12 * original
    assert default < together < 0.9 * original


def test_the_store_is_sound(pair):
    assert pair.store.fsck(read_data=True).corrupt == ()


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_base_that_does_not_fit_is_told_and_still_exact(tmp_path):
    paths = families.silero()
    store = tmp_path / "store"
    run("--store", store, "init")
    done = run("--store", store, "commit", paths["v6"], "--base", paths["v5"], "--exact", "--name", "v6")
    assert done.exit_code == 0
    assert "does not fit" in done.stderr
    found = Store.open(store).checkout("v6", tmp_path / "back.safetensors").path
    assert_same(load(Path(found)), load(paths["v6"]))


def test_base_of_another_architecture_is_refused(tmp_path):
    paths = families.chgnet()
    store = Store.init(tmp_path)
    store.import_base(paths["0.2.0"], name="old")
    with pytest.raises(CheckpointError, match=r"\[31\] here and \[9\] in the base"):
        store.commit(paths["0.3.0"], base="old", name="new")


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[2] == "movie"], indirect=True, ids=["minilm"])
def test_transformers_opens_what_comes_back(pair, tmp_path):
    import fine_tune

    examples = fine_tune.load_task("movie", families.cache()).test[:64]
    expected = fine_tune.logits(pair.original, examples)
    exact, default = (fine_tune.logits(pair.checkout(name, tmp_path), examples) for name in ("exact", "default"))
    assert torch.equal(exact, expected)
    assert not torch.equal(default, expected)
    assert torch.allclose(default, expected, atol=0.02)
    config = json.loads((tmp_path / "exact" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_a_fleet_is_made_and_goes_on(tmp_path, capsys, monkeypatch):
    import fleet

    families.minilm_tuned()  # or skip
    monkeypatch.setattr(fleet, "STEPS", 2)
    for limit in ("1", "2"):
        capsys.readouterr()
        arguments = [str(tmp_path / "store"), "--cache", str(families.cache()), "--small", "--limit", limit]
        monkeypatch.setattr("sys.argv", ["fleet.py", *arguments])
        fleet.main()
    there, made, variants, _ = (line for line in capsys.readouterr().out.splitlines() if line)
    assert there.endswith("seed0-2steps: there already")
    assert "MB of 92 MB, relative error 0.0" in made
    assert variants.startswith("2 variants: ")
    store = Store.open(tmp_path / "store")
    assert len([usage for usage in store.du().variants if usage.kind == "variant"]) == 2


def test_the_gate_of_the_how_to_page(tmp_path, monkeypatch):
    """A classifier that keeps its accuracy, judged by the script that the page shows."""
    from labelled_texts import load_task

    page = (Path(__file__).parents[1] / "docs" / "how-to" / "choose-the-quality.md").read_text("utf-8")
    (script,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    models = families.minilm_tuned()
    texts = load_task("movie", families.cache()).test[:128]
    monkeypatch.chdir(tmp_path)
    Path("eval.py").write_text(script)
    Path("held-out.jsonl").write_text(
        "".join(json.dumps({"text": text.text, "label": text.label}) + "\n" for text in texts)
    )
    command = f"{shlex.quote(sys.executable)} eval.py {{path}} 0.7"
    done = run("commit", models["movie"], "--base", models["base"], "--name", "movie", "--gate", command)
    assert done.exit_code == 0, done.output
    store = Store.open(".erestore")
    record = store.commit_record(store.resolve("movie"))
    assert record.stored_bytes < 0.05 * record.original_bytes
    assert 1 < int(record.quality["gate_runs"]) <= 12
    store.checkout("movie", "out")
    assert subprocess.run(command.format(path="out"), shell=True, check=False).returncode == 0
