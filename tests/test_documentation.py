"""Every command and every program in the README, the tutorial and the how-to pages is run, page by page.

In a block marked ``console`` a line after ``$`` is run; what follows it, if anything, is what it prints, of which numbers, ids
and dates may differ. Blocks marked ``python`` are run as well; one marked ``yaml`` is written to the file that its first line
names. One page is one session in one directory.
"""

import ast
import inspect
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import families
import pytest
import torch
from safetensors.torch import save_file
from servers import s3_environment

from erestore import Store
from erestore.cli.main import VERBS, run

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"
NOT_RUN = ("pip install", "bash examples/main_job.sh", "bash tests/run", "git clone")
"""Run by hand on a fresh machine: they make environments."""

BUCKET = "s3://bucket/models"

EVALUATION = """
import sys
from safetensors.torch import load_file

wanted, found = (load_file(f"{folder}/model.safetensors") for folder in ("ft", sys.argv[1]))
sys.exit(int(any((found[name] - tensor).abs().max() > 0.01 * float(sys.argv[2]) for name, tensor in wanted.items())))
"""
"""What stands for the reader's own ``eval.py``; the one of the page is run by ``test_real_models.py``."""


INTERRUPTIBLE = """
import signal
from erestore.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts with &
main()
"""


class Step(NamedTuple):
    """A command or a program, and what the page says that it prints."""

    kind: str
    code: str
    expected: str


def steps(page: Path) -> list[Step]:
    found = []
    for kind, block in re.findall(
        r"^```(console|python|yaml)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        if kind != "console":
            found.append(Step(kind, block, ""))
            continue
        assert block.startswith("$ "), block
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = command.replace("\\\n", "").partition("\n")
            found.append(Step(kind, line.split("  #")[0], output))
    return found


def in_general(text: str) -> list[str]:
    """What stays the same from run to run: words, but no numbers, ids, dates, places or widths."""
    text = re.sub(r"/\S*/", "/.../", text)
    text = re.sub(r"\w{3} \w{3} \d\d \d\d:\d\d:\d\d \d{4} [+-]\d{4}", "(date)", text)
    text = re.sub(r"(?m)^([ |*]*Author: ).*", r"\1(somebody)", text)
    text = re.sub(r"\bby \S+@\S+:", "by (somebody):", text)
    text = re.sub(r"\b[0-9a-f]{12,64}\b", "(id)", text)
    text = re.sub(r"\b\d[\d.,-]*(e-\d+)?( [kMG]?B\b)?", "#", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


class Session:
    """A shell, as far as the pages need one."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capsys = patch, capsys
        self.names: dict[str, object] = {}

    def follow(self, page: Path) -> None:
        assert steps(page), "nothing to run"
        for step in steps(page):
            self.capsys.readouterr()
            if step.kind == "yaml":
                Path(re.match(r"# (\S+\.yaml)\n", step.code)[1]).write_text(step.code)
            elif step.kind == "python":
                exec(compile(step.code, str(page), "exec"), self.names)
            elif not step.code.startswith(NOT_RUN):
                self.type(step.code)
                captured = self.capsys.readouterr()
                if step.expected:
                    printed = captured.out + captured.err
                    assert in_general(printed) == in_general(step.expected), f"$ {step.code}\n{printed}"

    def type(self, line: str) -> None:
        words = shlex.split(line)
        if words[:2] == ["erestore", "ui"]:
            self.visit(words[1:])
        elif words[0] == "erestore":
            code = run(words[1:])
            assert code == 0, f"$ {line}: {code}\n{self.capsys.readouterr().err}"
        elif words[0] == "cd":
            self.patch.chdir(words[1])
        elif words[0] == "export":
            self.patch.setenv(*words[1].split("=", 1))
        elif words == ["python", "examples/toy_models.py"]:
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")  # here, where torch is imported already
        else:
            program = [sys.executable, ROOT / words[1], *words[2:]] if words[0] == "python" else words
            subprocess.run(program, check=True, timeout=600, stdout=subprocess.PIPE)

    def visit(self, words: list[str]) -> None:
        """Start a server, open its page, and press Ctrl-C."""
        command = [sys.executable, "-c", INTERRUPTIBLE, *words]
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
        ) as process:
            address = process.stdout.readline()
            with urlopen(address.strip(), timeout=60) as answer:
                assert b"<title>" in answer.read()
            process.send_signal(signal.SIGINT)
            print(address + process.stderr.read())
            assert process.wait(timeout=60) == 130


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What readers of the pages have: fine-tunes of a RoBERTa, which is in their Hugging Face cache and in a folder."""
    directory = tmp_path_factory.mktemp("world")
    generator = torch.Generator().manual_seed(3)
    layer = "roberta.encoder.layer.0"
    shapes = {
        "roberta.embeddings.word_embeddings.weight": (120, 32),
        f"{layer}.attention.self.query.weight": (32, 32),
        f"{layer}.output.dense.weight": (32, 64),
        f"{layer}.output.dense.bias": (32,),
    }
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    cache = directory / "cache" / "hub" / "models--roberta-large"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    write(cache / "snapshots" / (cache / "refs" / "main").read_text(), base)
    write(directory / "work" / "roberta-base", base)
    for name in ("ft", "mnli", "ft-longer", "task-a", "task-a-longer", "task-b"):
        tuned = {key: value + 0.01 * torch.randn(value.shape, generator=generator) for key, value in base.items()}
        tuned["classifier.weight"] = torch.randn(3, 32, generator=generator)
        write(directory / "work" / name, tuned)
    (directory / "work" / "eval.py").write_text(EVALUATION)
    return directory


def write(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text('{"model_type": "roberta"}\n')


@pytest.fixture
def session(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Session:
    for name in [name for name in os.environ if name.startswith("ERESTORE_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(world / "cache" / "hub"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    directory = tmp_path / "work"
    subprocess.run(["cp", "-r", world / "work", directory], check=True)
    monkeypatch.chdir(directory)
    return Session(monkeypatch, capsys)


TOYS = "$ python examples/toy_models.py\n"
"""What every how-to page begins with: it makes what the page uses, in an empty folder."""


@pytest.mark.s3
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_true(session, page, moto_url, monkeypatch):
    """Pages that store on S3 have a bucket of their own."""
    url, options = moto_url
    for name, value in s3_environment(options).items():
        monkeypatch.setenv(name, value)
    if page != README:
        Path("empty").mkdir()
        monkeypatch.chdir("empty")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(Path("no-cache").absolute()))
    local = Path("../page.md").resolve()
    local.write_text(page.read_text("utf-8").replace(BUCKET, url), "utf-8")
    session.follow(local)


@pytest.mark.models
def test_the_tutorial_is_true(session, tmp_path, monkeypatch):
    package = families.rxnfp()["bert_ft"].parents[3]
    place = tmp_path / "tutorial"
    (place / "models").mkdir(parents=True)
    (place / "models" / package.name).symlink_to(package)  # what the first command would download
    monkeypatch.chdir(place)
    session.follow(TUTORIAL)


def test_every_how_to_makes_what_it_uses():
    for page in PAGES[1:]:
        text = page.read_text("utf-8")
        assert text[text.index("\n$ ") + 1 :].startswith(TOYS)


def test_readme_begins_with_the_commands_of_the_mission():
    commands = [step.code for step in steps(README)]
    assert commands[0] == "erestore commit ft/ --base roberta-large"
    assert "erestore checkout task-mnli" in commands


def test_readme_gives_two_commands_for_a_fresh_machine():
    (block,) = re.findall(
        r"^## Two commands.*?```console\n(.*?)```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert block.splitlines() == ["$ bash examples/main_job.sh", "$ bash tests/run"]
    assert all((ROOT / line.split()[-1]).is_file() for line in block.splitlines())


def test_readme_lists_every_verb():
    table = re.findall(r"^\| ((?:`[a-z-]+`,? ?)+) \|", README.read_text("utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"[a-z-]+", " ".join(table))) == sorted(verb.name for verb in VERBS)


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


REFERENCE = ROOT / "docs" / "reference" / "python.md"


def test_the_reference_has_all_that_verbs_return():
    described = set(re.findall(r"autoclass:: [\w.]+\.(\w+)", REFERENCE.read_text("utf-8")))
    elsewhere = {"Any", "DiGraph", "None", "Operation", "Self"}
    for name, method in inspect.getmembers(Store, inspect.isfunction):
        if not name.startswith("_") and name in vars(Store):
            returned = set(re.findall(r"\b[A-Z]\w+", str(inspect.signature(method).return_annotation)))
            assert returned <= described | elsewhere, name


def test_the_changelog_goes_by_kind_and_says_nothing_twice():
    """Several branches append to it at once, and git keeps the lines of all."""
    _, *releases = (ROOT / "docs" / "changelog.md").read_text("utf-8").split("\n## ")
    for release in releases:
        kinds = dict(re.findall(r"^### (\w+)\n\n((?:(?:\*|  ).*\n)+)", release, re.MULTILINE))
        assert set(kinds) <= {"Added", "Changed", "Fixed", "Removed", "Deprecated"}
        entries = re.findall(r"^\* .{,60}", release, re.MULTILINE)
        assert sum(text.count("\n* ") + 1 for text in kinds.values()) == len(entries) == len(set(entries))


ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"


def is_defined(name: str) -> bool:
    """Return whether a module of the package, or a class or function in one, has a dotted name; nothing is imported."""
    path, parts = ROOT / "erestore", name.split(".")
    while parts and ((path / parts[0]).is_dir() or (path / f"{parts[0]}.py").is_file()):
        path /= parts.pop(0)
    scope = [] if path.is_dir() else ast.parse(path.with_suffix(".py").read_text("utf-8")).body
    for part in parts:
        scope = next((node.body for node in scope if getattr(node, "name", None) == part), None)
        if scope is None:
            return False
    return path != ROOT / "erestore"


def test_the_map_of_the_code_names_what_is_there():
    names = re.findall(r"`([a-z_]+(?:\.\w+)+)`", ARCHITECTURE.read_text("utf-8"))
    assert len(names) > 40
    assert [name for name in names if not is_defined(name)] == []
    assert not is_defined("ops.commit.elsewhere")
    assert not is_defined("model.elsewhere")
