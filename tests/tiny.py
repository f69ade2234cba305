"""Tiny models and stores, for tests of verbs, faults and hostile inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from erestore.encoding.quality import Quality
from erestore.ops.commit import commit
from erestore.ops.import_base import import_base
from erestore.storage.abc import Storage
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.store import MARKER, Store
from erestore.variant.variant import Variant

DAY = 86400.0
EXACT = Quality(exact=True)

Tensors = dict[str, torch.Tensor]


def base_weights() -> Tensors:
    """A base with matrices, a vector, a scalar and integers."""
    generator = torch.Generator().manual_seed(7)
    return {
        "embedding.weight": torch.randn(64, 32, generator=generator),
        "dense.weight": torch.randn(32, 48, generator=generator).to(torch.bfloat16),
        "dense.bias": torch.randn(32, generator=generator),
        "scale": torch.tensor(1.5),
        "position_ids": torch.arange(16).view(1, 16),
    }


def tuned(weights: Mapping[str, torch.Tensor], seed: int) -> Tensors:
    """A fine-tune: a low-rank change and noise, grown vocabulary, a head of its own."""
    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            changed[name] = tensor
            continue
        noise = 1e-3 * torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 2:
            sides = [torch.randn(size, 2, generator=generator) for size in tensor.shape]
            noise = noise + 0.05 * sides[0] @ sides[1].T
        changed[name] = (tensor.float() + noise).to(tensor.dtype)
    embedding = changed["embedding.weight"]
    if len(embedding) == 64:
        changed["embedding.weight"] = torch.cat([embedding, torch.randn(2, 32, generator=generator)])
    changed["head.weight"] = torch.randn(2, 32, generator=generator)
    return changed


def write_model(directory: Path, tensors: Tensors, note: str = "") -> Path:
    """Write a directory that can be imported or committed."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text('{"model_type": "tiny"}\n')
    (directory / "notes.txt").write_text(f"trained on {note}\n")
    return directory


def weights_of(directory: Path) -> Tensors:
    """Read the weights that :func:`write_model` wrote."""
    return load_file(directory / "model.safetensors")


def store_on(storage: Storage) -> Store:
    """Open the store in a storage."""
    return Store(storage, parse_canonical(storage.read(MARKER)))


def make_store(storage: Storage) -> Store:
    """Make an empty store in a storage."""
    storage.create(MARKER, b'{"erestore":1,"id":"00","read":[],"write":[]}')
    return store_on(storage)


def filled_store(storage: Storage, directory: Path) -> Store:
    """A base, a lossy variant of two versions, and an exact one of two versions."""
    store = make_store(storage)
    base = base_weights()
    import_base(store, write_model(directory / "base", base), name="base")
    for name, seed, quality in (("lossy", 1, None), ("exact", 3, EXACT)):
        first = tuned(base, seed)
        commit(store, write_model(directory / name, first, name), base="base", name=name, quality=quality)
        second = write_model(directory / name, tuned(first, seed + 1), f"{name} again")
        commit(store, second, name=name, quality=quality)
    return store


def copy_store(source: Storage, target: Storage, *, keep_times: bool = False) -> Store:
    """Copy everything, as if it had been written now or, from memory to memory, when it was."""
    for entry in source.list():
        if keep_times:
            assert isinstance(source, MemoryStorage)
            assert isinstance(target, MemoryStorage)
            target._shelf.values[entry.key] = source._shelf.values[entry.key]
        elif isinstance(target, LocalStorage):  # without waiting for the disk
            (target.directory / entry.key).parent.mkdir(parents=True, exist_ok=True)
            (target.directory / entry.key).write_bytes(source.read(entry.key))
        else:
            target.create(entry.key, source.read(entry.key))
    return store_on(target)


def tensors_of(store: Store, revision: str) -> Tensors:
    """Decode every tensor of a variant."""
    variant = Variant(store.objects, store.manifest_of(revision))
    return {name: variant.tensor(name) for name in variant.layout.tensors}


def same_tensors(one: Tensors, other: Tensors) -> bool:
    """Return whether two state dicts agree in every bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and bytes(one[name].reshape(-1).view(torch.uint8).numpy())
        == bytes(other[name].reshape(-1).view(torch.uint8).numpy())
        for name in one
    )


def make_older(storage: Storage, seconds: float, prefix: str = "") -> None:
    """Let everything under a prefix look as if it had been written earlier, by a writer whose clock was right."""
    for entry in list(storage.list(prefix)):
        if entry.key.startswith("refs/"):
            record = parse_canonical(storage.read(entry.key))
            written = max(0, int(record["time"] - seconds * 1e6))
            replace_value(storage, entry.key, dump_canonical({**record, "time": written}))
        if isinstance(storage, LocalStorage):
            os.utime(storage.directory / entry.key, (entry.modified - seconds, entry.modified - seconds))
        else:
            assert isinstance(storage, MemoryStorage)
            value, modified = storage._shelf.values[entry.key]
            storage._shelf.values[entry.key] = (value, modified - seconds)


def replace_value(storage: Storage, key: str, value: bytes) -> None:
    """Put another value in the place of one, with its time."""
    if isinstance(storage, LocalStorage):
        path = storage.directory / key
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(value)
        os.utime(path, ns=times)
    else:
        assert isinstance(storage, MemoryStorage)
        storage._shelf.values[key] = (value, storage._shelf.values[key][1])


def delete_ref(store: Store, name: str) -> None:
    """Delete a branch of any kind, bases included."""
    entry = store.ref(name)
    operation = store.begin()
    store.refs.update(
        name,
        None,
        expected=entry.number,
        kind=entry.kind,
        operation=operation.id,
        writer=operation.writer,
        message="deleted",
    )


def keys_of(storage: Storage, prefix: str = "") -> set[str]:
    """List the keys under a prefix."""
    return {entry.key for entry in storage.list(prefix)}
