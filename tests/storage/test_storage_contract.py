"""Every backend against the shipped contract."""

from __future__ import annotations

import pytest

from erestore.storage.cache import CachedStorage
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.storage.overlay import Overlay
from erestore.storage.remote import FsspecStorage
from erestore.testing.storage import StorageContract


class TestMemory(StorageContract):
    rounds = 50

    @pytest.fixture
    def storage(self, request):
        return MemoryStorage(request.node.nodeid)

    @pytest.fixture
    def reopen(self, request):
        return lambda: MemoryStorage(request.node.nodeid)


class TestLocal(StorageContract):
    rounds = 30

    @pytest.fixture
    def storage(self, tmp_path):
        return LocalStorage(tmp_path / "store")

    @pytest.fixture
    def reopen(self, tmp_path):
        return lambda: LocalStorage(tmp_path / "store")


class RemoteContract(StorageContract):
    @pytest.fixture
    def storage(self, remote):
        return FsspecStorage(*remote)

    @pytest.fixture
    def reopen(self, remote):
        return lambda: FsspecStorage(*remote)


@pytest.mark.s3
class TestMoto(RemoteContract):
    racers = 4  # opening S3 takes a third of a second each
    rounds = 10

    @pytest.fixture
    def remote(self, moto_url):
        return moto_url


@pytest.mark.s3
class TestSeaweed(RemoteContract):
    racers = 4
    rounds = 2  # a contended creation takes it about two seconds

    @pytest.fixture
    def remote(self, seaweed_url):
        return seaweed_url


class TestCached(TestMemory):
    @pytest.fixture
    def storage(self, reopen):
        return reopen()

    @pytest.fixture
    def reopen(self, request, tmp_path):
        return lambda: CachedStorage(MemoryStorage(request.node.nodeid), tmp_path / "cache")


class TestOverlay(StorageContract):
    @pytest.fixture
    def parts(self, request, tmp_path):
        return MemoryStorage(request.node.nodeid), LocalStorage(tmp_path / "upper")

    @pytest.fixture
    def storage(self, parts):
        return Overlay(*parts)

    @pytest.fixture
    def reopen(self, parts):
        return lambda: Overlay(*parts)
