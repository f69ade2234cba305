"""Every family of real models through a store: exact comes back bit for bit, the default is as good as it says.

What comes back is read by its own library, not by erestore, and errors are computed here, in float64. Some are those of the
main job, which runs to its end here; the README's figures are those that it prints.
"""

import json
import math
import os
import re
import runpy
import shlex
import shutil
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
from erestore.encoding.quality import Quality
from erestore.errors import CheckpointError
from erestore.ops.show import ShowResult

pytestmark = pytest.mark.models

PREFIX = re.compile(r"^(bert|model)\.")
LEFT_OUT = {"optimizer.pt", "scheduler.pt"}

ROOT = Path(__file__).parents[1]
MAIN_JOB = [("bert_pretrained", "bert_ft"), ("bert_pretrained", "bert_ft_10k_25s"), ("minilm", "movie")]
"""Its first pair is of the soak tests alone: all three take minutes, and the second is of the same base."""
PAIRS = [
    (families.chgnet, "0.3.0", "r2scan"),
    (families.glyphive, "ocrb", "courier"),
    (families.glyphive, "ocrb", "dejavu"),
    (families.glyphive, "ocrb", "libmono"),
    (families.silero, "v5", "v6"),
]
MOVIE = MAIN_JOB[-1]
TOLERANCE = {"movie": 0.15}
"""Of sizes in the README. Threads and processors sum in different orders, so that no two trainings end in the same bits."""


@dataclass(frozen=True)
class MainJob:
    """Where the main job was done, and the rows of its table."""

    work: Path
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def main_job(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> MainJob:
    """Of a fine-tune of each base; of all of them if one of the soak tests is to run."""
    families.rxnfp()  # or skip
    families.minilm_tuned()
    place = tmp_path_factory.mktemp("main-job")
    done = MainJob(place / "work", [])
    command = [sys.executable, ROOT / "examples" / "main_job.py", "--work", done.work, "--json", place / "rows"]
    if not any(item.get_closest_marker("soak") for item in request.session.items if item.path == request.path):
        command += ["--only", MAIN_JOB[1][1], "--only", MOVIE[1]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ERESTORE_TEST_CACHE": str(families.cache())}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    done.rows.extend(json.loads((place / "rows").read_text()))
    return done


def number(cell: str) -> float:
    return float(re.sub(r"[^0-9.]", "", cell))


def test_the_table_of_the_readme(main_job):
    (table,) = re.findall(
        r"<!-- figures -->\n(.*?)<!-- /figures -->", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [(base, name) for name, base, *_ in lines] == MAIN_JOB
    pairs = list(zip(main_job.rows[::2], main_job.rows[1::2], strict=True))
    lines = [line for line in lines if line[0] in {default["fine-tune"] for default, _ in pairs}]
    assert [line[:2] for line in lines] == [[default["fine-tune"], default["base"]] for default, _ in pairs]
    assert len(lines) >= 2
    for (name, _, original, default_size, error, exact_size), (default, exact) in zip(lines, pairs, strict=True):
        near = TOLERANCE.get(name, 0.03)
        assert (default["quality"], exact["quality"]) == ("default", "exact")
        assert number(original) == pytest.approx(default["original_bytes"] / 1e6, rel=0.01)
        assert number(default_size) == pytest.approx(default["stored_bytes"] / 1e6, rel=near)
        assert number(exact_size) == pytest.approx(exact["stored_bytes"] / 1e6, rel=near)
        assert number(error) == pytest.approx(default["relative_error"], rel=0.1)
        assert default["relative_error"] <= 0.01


@dataclass(frozen=True)
class Pair:
    """A fine-tune that was committed by default quality and exactly: to one store, or to one each."""

    base: Path
    original: Path
    stored: Mapping[str, tuple[Store, str]]

    def show(self, quality: str) -> ShowResult:
        store, name = self.stored[quality]
        return store.show(name)

    def checkout(self, quality: str, directory: Path) -> Path:
        """Check out into an existing folder where the checkpoint is a file, so that it keeps its own name."""
        store, name = self.stored[quality]
        target = directory if self.original.is_file() else directory / quality
        return Path(store.checkout(name, target).path)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            pair,
            id=f"{getattr(pair[0], '__name__', 'main-job')}-{pair[-1]}",
            marks=[pytest.mark.soak] if pair == MAIN_JOB[0] else [],
        )
        for pair in (*MAIN_JOB, *PAIRS)
    ],
)
def pair(request, tmp_path_factory) -> Pair:
    if request.param in MAIN_JOB:
        base, name = request.param
        work = request.getfixturevalue("main_job").work
        stores = {"default": work / ".erestore", "exact": work / "exact"}
        return Pair(work / base, work / name, {each: (Store.open(store), name) for each, store in stores.items()})
    family, base, variant = request.param
    paths = family()
    store = Store.init(tmp_path_factory.mktemp("store"))
    store.import_base(paths[base], name="base")
    for name in ("default", "exact"):
        store.commit(paths[variant], base="base", name=name, quality=Quality(exact=name == "exact"))
    return Pair(paths[base], paths[variant], {name: (store, name) for name in ("default", "exact")})


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
    assert pair.show("exact").exact
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
        if before is None or not tensor.is_floating_point() or tensor.numel() == 1:  # single numbers are exact too
            assert content(found[name]) == content(tensor)
            continue
        lost += float((found[name].double() - tensor.double()).square().sum())
        moved += float((tensor.double() - before.double()).square().sum())
    assert lost / moved <= 0.01
    assert lost / moved == pytest.approx(pair.show("default").relative_error, rel=1e-6)


def test_sizes(pair):
    """An exact commit that is the second in its store shares the residual with the default one."""
    default, exact = pair.show("default"), pair.show("exact")
    original = default.original_bytes
    if "chgnet" in str(pair.base):  # two thirds of it are an optimizer's moments, which are kept whole
        assert default.stored_bytes < 0.7 * original
    else:
        assert default.stored_bytes < 0.12 * original
    together = exact.stored_bytes
    if pair.stored["exact"][0] is pair.stored["default"][0]:
        together += default.stored_bytes
    assert default.stored_bytes < together < 0.9 * original


def test_the_store_is_sound(pair):
    for store, _ in pair.stored.values():
        assert store.fsck(read_data=True).corrupt == ()


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


@pytest.mark.parametrize("pair", [MOVIE], indirect=True, ids=["movie"])
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


def small_base(directory: Path) -> Path:
    """A BERT of one thin layer that takes MiniLM's words: what is tested here is the fleet, and not the model."""
    from transformers import BertConfig, BertModel

    minilm = families.minilm()["base"]
    shutil.copytree(minilm, directory, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    config = BertConfig.from_pretrained(
        minilm, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(directory)
    return directory


def test_a_fleet_is_made_and_goes_on(tmp_path, capsys, monkeypatch):
    import fleet

    small = small_base(tmp_path / "small")
    monkeypatch.setattr(fleet, "base_directory", lambda _: small)
    monkeypatch.setattr(fleet, "STEPS", 2)
    for limit in ("1", "2"):
        capsys.readouterr()
        arguments = [str(tmp_path / "store"), "--cache", str(families.cache()), "--small", "--limit", limit]
        monkeypatch.setattr("sys.argv", ["fleet.py", *arguments])
        fleet.main()
    there, made, variants, _ = (line for line in capsys.readouterr().out.splitlines() if line)
    assert there.endswith("seed0-2steps: there already")
    assert " MB of 5 MB, relative error 0.0" in made
    assert variants.startswith("2 variants: ")
    store = Store.open(tmp_path / "store")
    assert len([usage for usage in store.du().variants if usage.kind == "variant"]) == 2


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The script that the how-to page shows, as a gate: 128 held-out film reviews, of which a share has to be right."""
    from labelled_texts import load_task

    families.minilm_tuned()  # or skip
    page = (ROOT / "docs" / "how-to" / "choose-the-quality.md").read_text("utf-8")
    (script,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    texts = load_task("movie", families.cache()).test[:128]
    monkeypatch.chdir(tmp_path)
    Path("eval.py").write_text(script)
    Path("held-out.jsonl").write_text(
        "".join(json.dumps({"text": text.text, "label": text.label}) + "\n" for text in texts)
    )
    return f"{shlex.quote(sys.executable)} eval.py {{path}} {{share}}"


def judged(path: Path | str, share: float, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the script in this process, which has loaded transformers; the soak test below runs it as a gate does."""
    monkeypatch.setattr("sys.argv", ["eval.py", str(path), str(share)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("eval.py", run_name="__main__")
    return int(ended.value.code or 0)


def test_the_script_of_the_how_to_page(judge, monkeypatch):
    tuned = families.minilm_tuned()["movie"]
    assert judged(tuned, 0.7, monkeypatch) == 0
    assert judged(tuned, 0.99, monkeypatch) == 1


@pytest.mark.soak
def test_the_gate_of_the_how_to_page(judge, monkeypatch):
    """A classifier that keeps its accuracy."""
    models = families.minilm_tuned()
    command = judge.replace("{share}", "0.7")
    done = run("commit", models["movie"], "--base", models["base"], "--name", "movie", "--gate", command)
    assert done.exit_code == 0, done.output
    store = Store.open(".erestore")
    record = store.commit_record(store.resolve("movie"))
    assert record.stored_bytes < 0.05 * record.original_bytes
    assert 1 < int(record.quality["gate_runs"]) <= 12
    store.checkout("movie", "out")
    assert judged("out", 0.7, monkeypatch) == 0
