"""Every backend against the shipped contract."""

from __future__ import annotations

import pytest

from erestore.storage.cache import CachedStorage
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.storage.opening import open_storage
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


@pytest.mark.s3
class TestCachedAndProbed(RemoteContract):
    """As a store on a remote is opened."""

    @pytest.fixture
    def remote(self, moto_url):
        return moto_url

    @pytest.fixture
    def storage(self, remote, tmp_path):
        return self.open(remote, tmp_path / "cache")

    @pytest.fixture
    def reopen(self, remote, tmp_path):
        return lambda: self.open(remote, tmp_path / "cache")

    def open(self, remote, cache):
        url, options = remote
        return _WithoutMarker(open_storage(url, options=options, cache_directory=cache))


class _WithoutMarker(CachedStorage):
    """The suite expects a storage that holds only what it put there."""

    def __init__(self, opened):
        self.__dict__.update(opened.__dict__)

    def list(self, prefix=""):
        return (entry for entry in super().list(prefix) if not entry.key.startswith("probe/"))
