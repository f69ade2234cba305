"""Fixtures of the fault suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import verbs

from erestore.storage.abc import Storage


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return verbs.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def states(models: Path) -> dict[str, Storage]:
    return verbs.make_states(models)


@pytest.fixture
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where programs die and machines do not, waiting for the disk only takes time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
