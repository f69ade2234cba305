"""Objects that are well framed and hold nonsense: what somebody could put into a store that others fetch from."""

from __future__ import annotations

import copy
import json
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from erestore.errors import ErestoreError
from erestore.residual import entropy
from erestore.storage.canonical import dump_canonical
from erestore.storage.frames import digest, encode_head, segmented_oid
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import object_key, place
from erestore.store import Store
from erestore.variant.variant import Variant

SEGMENTED = ("tensors", "residual", "patch")

NASTY: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    7,
    64,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
    "",
    "x",
    "F32",
    "F4",
    "BOOL",
    "C64",
    "I64",
    "F99",
    "nan",
    "inf",
    "1e999",
    "0/0",
    "-1/3",
    "raw",
    "zstd",
    "words4",
    "runs",
    "stored",
    "base",
    "lowrank",
    "lowrank2",
    "remainder",
    "vector",
    "gamma",
    "dense",
    "factors",
    "ere",
    "classed",
    "difference",
    "../../etc/passwd",
    "/absolute",
    "0" * 64,
    "f" * 64,
    [],
    {},
    [[]],
    [1, 2, 3],
    [0],
    [1 << 40, 1 << 40],
    [[0, 0]],
    {"": 0},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every node but the root."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def change(draw: Callable[[st.SearchStrategy[Any]], Any], record: Any) -> Any:
    """Change a JSON value in one to three places."""
    record = copy.deepcopy(record)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(record))
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        parent = record
        for key in path[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "nudge", "remove", "double", "swap"]))
        last = path[-1]
        if how == "replace":
            parent[last] = copy.deepcopy(draw(st.sampled_from(NASTY)))
        elif how == "nudge" and type(parent[last]) is int:
            parent[last] += draw(st.sampled_from([-2, -1, 1, 2]))
        elif how == "remove":
            del parent[last]
        elif how == "double" and isinstance(parent, list):
            parent.insert(last, copy.deepcopy(parent[last]))
        elif how == "double":
            parent[f"{last} again"] = copy.deepcopy(parent[last])
        else:
            other = draw(st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent))))
            parent[last], parent[other] = parent[other], parent[last]
    return record


def damage(draw: Callable[[st.SearchStrategy[Any]], Any], content: bytes) -> bytes:
    """Change bytes in one to three places."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, max(0, len(changed) - 1)))
        how = draw(st.sampled_from(["set", "set", "set", "cut", "add"]))
        if how == "cut":
            del changed[position : position + draw(st.integers(1, 9))]
        elif how == "add":
            changed[position:position] = bytes(draw(st.integers(1, 9)))
        elif changed:
            changed[position] = draw(st.integers(0, 255))
    return bytes(changed)


def read_segmented(objects: ObjectStore, kind: str, oid: str) -> tuple[dict[str, Any], list[bytes], int]:
    """Return index without segments, the content of each segment, and the alignment."""
    held = objects.open(kind, oid)
    contents = [
        entropy.decode(segment.stage, held.read(number), segment.raw_length)
        for number, segment in enumerate(held.segments)
    ]
    return {key: value for key, value in held.index.items() if key != "segments"}, contents, held.alignment


def rows_of(contents: Sequence[bytes]) -> tuple[list[list[Any]], list[bytes]]:
    """Return the index's rows for segments that are stored raw, and the segments."""
    return [[len(content), len(content), "raw", digest(content)] for content in contents], list(contents)


def put_segmented(
    objects: ObjectStore, kind: str, index: Mapping[str, Any], rows: Any, stored: Sequence[bytes], align: int = 1
) -> str:
    """Store an object with an index that says anything; return its oid."""
    content = dump_canonical({**index, "segments": rows})
    head = encode_head(kind, content, align)
    offsets, _ = place([len(segment) for segment in stored], len(head), align)
    data = bytearray(head)
    for offset, segment in zip(offsets, stored, strict=True):
        data += bytes(offset - len(data)) + segment
    oid = segmented_oid(kind, align, content)
    objects.storage.create(object_key(kind, oid), bytes(data))
    return oid


def substitute(store: Store, manifest: str, replaced: Mapping[str, str]) -> str:
    """Return a manifest like another, in whose parts some oids are replaced."""
    objects, known = store.objects, dict(replaced)

    def renamed(value: Any) -> Any:
        text = json.dumps(value)
        for old, new in known.items():
            text = text.replace(old, new)
        return json.loads(text)

    def rewrite(kind: str, oid: str | None) -> None:
        if oid is None or oid in known:
            return
        if kind in SEGMENTED:
            index, contents, align = read_segmented(objects, kind, oid)
            new = put_segmented(objects, kind, renamed(index), *rows_of(contents), align)
        else:
            new = objects.put_record(kind, renamed(objects.get_record(kind, oid))).oid
        if new != oid:
            known[oid] = new

    record = objects.get_record("manifest", manifest)
    rewrite("base", record["base"])
    rewrite("layout", record["layout"])
    for term in record["terms"]:
        rewrite("residual", term[0])
    rewrite("patch", record["patch"])
    record = {**renamed(record), "digests": {}}
    record["terms"] = sorted(record["terms"])
    return objects.put_record("manifest", record).oid


def evaluate(store: Store, manifest: str) -> int:
    """Decode every tensor of a variant; return how many could be, and let nothing but our own errors pass unseen."""
    try:
        variant = Variant.open(store.objects, manifest)
        names = list(variant.layout.tensors)
    except ErestoreError:
        return 0
    decoded = 0
    for name in names:
        try:
            variant.tensor(name)
        except ErestoreError:
            continue
        decoded += 1
    return decoded


@contextmanager
def memory_limit(megabytes: int) -> Iterator[None]:
    """Let this process take no more address space than it has now and a little more."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        pytest.skip("there is no /proc to learn the process' size from")
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(statistics.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
