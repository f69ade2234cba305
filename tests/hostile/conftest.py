"""One small store, whose objects are taken apart."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import HealthCheck, settings

from erestore.storage.memory import MemoryStorage
from erestore.store import Store

# Nothing here may take long: the deadline is what notices a loop without an end.
settings.register_profile(
    "hostile", deadline=30_000, suppress_health_check=list(HealthCheck), max_examples=40, print_blob=True
)
settings.register_profile("hostile soak", settings.get_profile("hostile"), max_examples=3_000)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny.filled_store(MemoryStorage(), tmp_path_factory.mktemp("models"))
