"""A local storage behaves like the one in memory, whatever is done to them in whatever order."""

from __future__ import annotations

import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from erestore.errors import ErestoreError
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage

KEYS = st.sampled_from(["a", "b/c", "b/d", "b/e/f", "b/e/g", "objects/ab/cd", "objects/ab/ce", "objects/zz", "x-y"])
PREFIXES = KEYS | st.sampled_from(["", "b", "b/", "b/e", "objects/a", "objects/ab/", "nothing/", "z"])
DATA = st.binary(max_size=20) | st.lists(st.binary(max_size=5)).map(tuple)


class Same(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.local = LocalStorage(self.directory)
        self.memory = MemoryStorage()

    def teardown(self):
        shutil.rmtree(self.directory)

    def both(self, call):
        results = []
        for storage in (self.local, self.memory):
            try:
                results.append(call(storage))
            except ErestoreError as error:
                results.append((type(error), error.message))
        assert results[0] == results[1]

    @rule(key=KEYS, data=DATA)
    def create(self, key, data):
        self.both(lambda storage: storage.create(key, data if isinstance(data, bytes) else iter(data)))

    @rule(key=KEYS)
    def read(self, key):
        self.both(lambda storage: storage.read(key))

    @rule(key=KEYS, start=st.integers(0, 25), stop=st.integers(0, 25))
    def read_range(self, key, start, stop):
        self.both(lambda storage: storage.read_range(key, start, stop))

    @rule(key=KEYS)
    def exists(self, key):
        self.both(lambda storage: storage.exists(key))

    @rule(key=KEYS)
    def delete(self, key):
        self.both(lambda storage: storage.delete(key))

    @rule(prefix=PREFIXES)
    def list(self, prefix):
        self.both(lambda storage: sorted((entry.key, entry.size) for entry in storage.list(prefix)))

    @rule()
    def reopen(self):
        self.local = LocalStorage(self.directory)

    @rule()
    def remove_unfinished(self):
        self.both(lambda storage: storage.remove_unfinished(2**40))

    @invariant()
    def hold_the_same(self):
        self.both(lambda storage: {entry.key: storage.read(entry.key) for entry in storage.list()})


TestSame = Same.TestCase
TestSame.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
