"""A working directory that holds a base and two fine-tunes, and one where they are in a store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from commands import Here


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base/``, ``ft/``, ``more/`` and the store ``.erestore`` made from them by the library."""
    from erestore.api import Store
    from erestore.encoding.quality import Quality

    directory = tmp_path_factory.mktemp("prepared")
    base = tiny.base_weights()
    tuned = tiny.tuned(base, 1)
    tiny.write_model(directory / "base", base)
    tiny.write_model(directory / "ft", tuned)
    tiny.write_model(directory / "more", tiny.tuned(tuned, 2))
    store = Store.init(directory / ".erestore")
    store.author = "Ada"
    store.import_base(directory / "base", name="base")
    store.commit(directory / "ft", base="base", message="first\n\nat length")
    store.commit(directory / "more", parent="ft", quality=Quality(exact=True), metrics={"accuracy": "0.9"})
    store.tag("v1", "ft")
    return directory


@pytest.fixture(autouse=True)
def undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration but the tests' own."""
    for name in ("ERESTORE_STORE", "ERESTORE_AUTHOR", "ERESTORE_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def empty(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The models, and no store."""
    directory = tmp_path / "work"
    shutil.copytree(prepared, directory, ignore=shutil.ignore_patterns(".erestore"))
    monkeypatch.chdir(directory)
    return Here(directory, capsys)


@pytest.fixture
def here(empty: Here, prepared: Path) -> Here:
    """The models and the store."""
    shutil.copytree(prepared / ".erestore", empty.directory / ".erestore")
    return empty


@pytest.fixture(scope="session")
def prepared_words(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`prepared` with a base that knows words and is in the store, a classifier tuned from it, and texts."""
    from word_models import write_word_models

    from erestore.api import Store

    directory = shutil.copytree(prepared, tmp_path_factory.mktemp("words") / "work")
    write_word_models(directory)
    Store.open(directory / ".erestore").import_base(directory / "words", name="words")
    return directory


@pytest.fixture
def work(prepared_words: Path, empty: Here) -> Here:
    return empty.refill(prepared_words)
