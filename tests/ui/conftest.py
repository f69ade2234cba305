"""A store of sixty variants on two bases, served."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from markup import CLOSING, HOSTILE
from synthetic_fleets import make_fleet

from erestore.api import Store
from erestore.cli.main import run
from erestore.ui.server import Served, serve


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """With a tag, two names of one commit, and a commit whose message, author and metrics are HTML."""
    directory = tmp_path_factory.mktemp("fleet")
    fleet = make_fleet(directory, [50, 10], 12)
    store = fleet.store
    store.tag("v1", "mnli-0000")
    store.branch("twin", "sst2-0001")
    held = store.commit_record(store.resolve("qqp-0002"))
    fleet.commit(
        "odd",
        held.manifest,
        held.parents,
        "adapted",
        held.stored_bytes,
        own=held.own,
        quality=dict(held.quality),
        message=f"{HOSTILE}\n\n{CLOSING}",
        metrics={"<i>loss</i>": CLOSING, "accuracy": "<u>0.9</u>"},
        recipe={"strategy": CLOSING, "operands": [{"name": HOSTILE, "commit": "", "weight": "<s>1</s>"}]},
    )
    return store


@pytest.fixture(scope="module")
def served(fleet: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    caches = tmp_path_factory.mktemp("caches")
    with serve(Store.open(fleet.url), products=caches / "products", spectra=caches / "spectra") as found:
        yield found


@pytest.fixture
def told(fleet: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Any]:
    """Run a command with ``--json`` and return what it prints."""

    def told(*arguments: str) -> Any:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ERESTORE_CACHE_DIRECTORY", str(tmp_path / "cache"))
            code = run(["--store", fleet.url, *arguments, "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return json.loads(printed.out)

    return told
