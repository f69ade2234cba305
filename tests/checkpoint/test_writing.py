import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from checkpoints import assert_same, blocks, layout_of, write_again

from erestore.checkpoint.open import open_checkpoint
from erestore.checkpoint.write import write_checkpoint
from erestore.errors import (
    AccessError,
    CheckpointError,
    CorruptionError,
    TargetExistsError,
    UnsupportedFormatError,
    UsageError,
)
from erestore.records import Layout, LayoutFile, LayoutTensor

DATA = {"w": torch.arange(6.0).reshape(2, 3)}


def layout(**changes):
    fields = {
        "format": "safetensors",
        "is_directory": True,
        "files": (LayoutFile("model.safetensors", ("w",), {"format": "pt"}),),
        "tensors": {"w": LayoutTensor("w", "F32", (2, 3))},
        "side_files": {"config.json": "oid"},
    }
    return Layout(**{**fields, **changes})


def write(target, written=None, read=None, side=None, **options):
    write_checkpoint(
        target,
        written or layout(),
        read or (lambda name: blocks(DATA[name])),
        side or (lambda _: [b"{", b"}"]),
        **options,
    )


def listing(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def test_new_directory_and_its_parents(tmp_path):
    write(tmp_path / "a" / "b" / "out")
    assert listing(tmp_path / "a" / "b") == ["out", "out/config.json", "out/model.safetensors"]
    assert (tmp_path / "a/b/out/config.json").read_bytes() == b"{}"
    with open_checkpoint(tmp_path / "a/b/out") as checkpoint:
        assert torch.equal(checkpoint.read("w"), DATA["w"])


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out/model.safetensors").stat().st_mode & 0o777 == 0o640


def test_existing_target_is_refused_without_force(tmp_path):
    for target in (tmp_path / "directory", tmp_path / "file", tmp_path / "link"):
        if target.name == "directory":
            target.mkdir()
            (target / "mine").write_text("mine")
        elif target.name == "file":
            target.write_text("mine")
        else:
            target.symlink_to("nowhere")
        before = listing(tmp_path)
        with pytest.raises(TargetExistsError, match="already exists"):
            write(target)
        assert listing(tmp_path) == before


def test_empty_directory_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert listing(tmp_path) == ["out", "out/config.json", "out/model.safetensors"]


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_force_replaces_the_whole_target(tmp_path, kind):
    target, kept = tmp_path / "out", tmp_path / "kept"
    kept.mkdir()
    (kept / "old").write_text("old")
    if kind == "directory":
        shutil.copytree(kept, target)
    elif kind == "file":
        target.write_text("old")
    else:
        target.symlink_to(kept)
    write(target, force=True)
    assert listing(tmp_path) == ["kept", "kept/old", "out", "out/config.json", "out/model.safetensors"]


@pytest.fixture
def happened(monkeypatch):
    """What was synced, by inode, and renamed or linked, by names, in that order."""
    found = []
    fsync, link, rename = os.fsync, os.link, Path.rename

    def record_fsync(descriptor):
        found.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def record_link(source, to):
        found.append(("move", source.name, to.name))
        link(source, to)

    def record_rename(self, to):
        found.append(("move", self.name, to.name))
        return rename(self, to)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "link", record_link)
    monkeypatch.setattr(Path, "rename", record_rename)
    return found


NESTED = layout(side_files={"config.json": "oid", "deep/vocab.txt": "oid"})
BARE = layout(is_directory=False, side_files={})


@pytest.mark.parametrize("format_wanted", ["safetensors", "torch"])
@pytest.mark.parametrize("written", [NESTED, BARE])
@pytest.mark.parametrize("force", [False, True])
def test_what_replaces_nothing_is_not_synced(tmp_path, happened, format_wanted, written, force):
    write(tmp_path / "out", written, format=format_wanted, force=force)
    assert happened == [("move", "new", "out")]


@pytest.mark.parametrize("format_wanted", ["safetensors", "torch"])
@pytest.mark.parametrize(
    ("written", "before"),
    [(NESTED, "directory"), *((each, before) for each in (NESTED, BARE) for before in ("file", "link"))],
)
def test_what_replaces_something_is_synced_before(tmp_path, happened, format_wanted, written, before):
    target, kept = tmp_path / "out", tmp_path / "kept"
    kept.mkdir()
    (kept / "old").write_text("old")
    if before == "directory":
        shutil.copytree(kept, target)
    elif before == "file":
        target.write_text("old")
    else:
        target.symlink_to(kept / "old")
    write(target, written, format=format_wanted, force=True)
    *synced, aside, placed, last = happened
    assert [aside, placed] == [("move", "out", "old"), ("move", "new", "out")]
    assert last == ("sync", tmp_path.stat().st_ino)  # before what was there is removed
    inodes = [path.stat().st_ino for path in (target, *target.rglob("*"))]
    assert sorted(synced) == sorted(("sync", inode) for inode in inodes)
    assert len(inodes) == (5 if written.is_directory else 1)


@pytest.mark.parametrize("inside", [".git", ".erestore", "erestore.json"])
def test_force_never_replaces_a_repository(tmp_path, inside):
    (tmp_path / "out" / inside).mkdir(parents=True)
    with pytest.raises(TargetExistsError, match="it is not replaced"):
        write(tmp_path / "out", force=True)


def test_force_never_replaces_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "out" / "deep")
    for target in (".", "..", tmp_path / "out"):
        (tmp_path / "out" / "deep" / "x").touch()
        with pytest.raises(TargetExistsError, match="it is not replaced"):
            write(target, force=True)


def test_single_file(tmp_path):
    bare = layout(is_directory=False, side_files={})
    write(tmp_path / "a.safetensors", bare)
    assert listing(tmp_path) == ["a.safetensors"]
    with pytest.raises(TargetExistsError):
        write(tmp_path / "a.safetensors", bare)
    write(tmp_path / "a.safetensors", bare, force=True)
    (tmp_path / "d").mkdir()
    with pytest.raises(TargetExistsError, match="is a directory, but"):
        write(tmp_path / "d", bare, force=True)
    two = layout(is_directory=False, files=(LayoutFile("a.safetensors", ("w",)), LayoutFile("b.safetensors", ())))
    with pytest.raises(UsageError, match="several files"):
        write(tmp_path / "b.safetensors", two)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, CorruptionError("x"), RuntimeError])
@pytest.mark.parametrize("place", ["read", "side"])
@pytest.mark.parametrize("format_wanted", ["safetensors", "torch"])
def test_failures_leave_everything_as_it_was(tmp_path, failure, place, format_wanted):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")

    def fail(_):
        yield b"{"
        raise failure

    with pytest.raises(failure if isinstance(failure, type) else type(failure)):
        write(tmp_path / "out", **{place: fail}, force=True, format=format_wanted)
    assert listing(tmp_path) == ["out", "out/old"]


def test_failed_rename_puts_the_old_target_back(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    rename = type(tmp_path).rename

    def fail_to_place(self, to):
        if self.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, to)

    monkeypatch.setattr(type(tmp_path), "rename", fail_to_place)
    with pytest.raises(AccessError, match="Input/output error"):
        write(tmp_path / "out", force=True)
    assert listing(tmp_path) == ["out", "out/old"]


@pytest.mark.parametrize("is_directory", [True, False])
@pytest.mark.parametrize("theirs", ["file", "directory"])
def test_target_that_appears_meanwhile_is_not_touched(tmp_path, is_directory, theirs):
    target = tmp_path / "out"

    def read(_):
        if theirs == "directory":
            target.mkdir()
            (target / "theirs").write_text("theirs")
        else:
            target.write_text("theirs")
        yield from blocks(DATA["w"])

    with pytest.raises(TargetExistsError, match="appeared"):
        write(target, layout(is_directory=is_directory, side_files={}), read=read)
    assert listing(tmp_path) == (["out", "out/theirs"] if theirs == "directory" else ["out"])
    assert theirs == "directory" or target.read_text() == "theirs"


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", ".bashrc", "a/../../evil", "MODEL.safetensors"])
@pytest.mark.parametrize("where", ["side", "weights"])
def test_hostile_names_write_nothing(tmp_path, name, where):
    extra = {"side_files": {name: "oid"}} if where == "side" else {"files": (*layout().files, LayoutFile(name, ()))}
    hostile = layout(**extra)
    with pytest.raises(CheckpointError):
        write(tmp_path / "in" / "out", hostile)
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": {}},
        {"tensors": {"w": LayoutTensor("w", "X32", (2, 3))}},
        {"tensors": {"w": LayoutTensor("w", "F32", (2, 4))}},
        {"files": (LayoutFile("model.safetensors", ("w", "w")),)},
    ],
)
def test_layouts_that_contradict_themselves(tmp_path, changes):
    with pytest.raises(CorruptionError):
        write(tmp_path / "out", layout(**changes))
    assert listing(tmp_path) == []


def test_unknown_formats(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint format 'gguf'"):
        write(tmp_path / "out", format="gguf")
    with pytest.raises(UnsupportedFormatError, match="unknown format 'new'"):
        write(tmp_path / "out", layout(format="new"))


def test_disk_full(tmp_path):
    """A limit on the size of files fails like a full disk: each write raises OSError, halfway through."""
    script = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import test_writing
        from erestore.errors import AccessError
        shape = (300, 300)
        test_writing.DATA["w"] = test_writing.torch.ones(shape)
        wanted = test_writing.layout(tensors={"w": test_writing.LayoutTensor("w", "F32", shape)})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # The second limit lets the staging file of the torch writer through, and stops torch.save itself.
        for limit, format in ((100_000, "safetensors"), (100_000, "torch"), (360_500, "torch")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                test_writing.write(Path(sys.argv[2]) / "out", wanted, format=format)
            except AccessError as error:
                print(error.message)
    """)
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout.count("cannot be written: File too large") == 3, run.stdout + run.stderr
    assert listing(tmp_path) == []


def test_no_permission(tmp_path):
    user = os.geteuid()
    tmp_path.chmod(0o500)
    try:
        if user == 0:  # root may write anywhere, so be nobody
            os.seteuid(65534)
        with pytest.raises(AccessError, match="Permission denied") as caught:
            write(tmp_path / "out")
    finally:
        os.seteuid(user)
    assert "may write to" in caught.value.hint


def test_parent_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AccessError, match="cannot be written"):
        write(tmp_path / "file" / "out")


def test_conversion_of_ties_and_shards(tmp_path):
    source, weight = tmp_path / "source", torch.ones(2, 2)
    source.mkdir()
    torch.save({"a": weight, "c": torch.zeros(1), "b": weight}, source / "pytorch_model-00001-of-00002.bin")
    torch.save({"d": torch.ones(3)}, source / "pytorch_model-00002-of-00002.bin")
    files = {"a": 1, "b": 1, "c": 1, "d": 2}
    weight_map = {name: f"pytorch_model-0000{number}-of-00002.bin" for name, number in files.items()}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    write_again(source, tmp_path / "same")
    assert_same(source, tmp_path / "same")
    write_again(source, tmp_path / "st", format="safetensors")
    assert listing(tmp_path / "st") == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    with open_checkpoint(tmp_path / "st") as checkpoint:
        assert list(checkpoint.tensors) == ["a", "c", "d"]
        assert checkpoint.files[0].metadata == {"b": "a", "format": "pt"}
    index = json.loads((tmp_path / "st/model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 16 + 4 + 12}
    assert set(index["weight_map"]) == {"a", "c", "d"}
    write_again(tmp_path / "st", tmp_path / "back", format="torch")
    with open_checkpoint(tmp_path / "back") as checkpoint:
        assert checkpoint.format == "torch"
        assert list(checkpoint.tensors) == ["a", "c", "d"]
        assert set(checkpoint.side_files) == {"pytorch_model.bin.index.json"}


@pytest.mark.parametrize(
    ("name", "converted"),
    [("net.pth.tar", "net.safetensors"), ("last.ckpt", "last.safetensors"), ("pytorch_model.bin", "model.safetensors")],
)
def test_conversion_of_one_file(tmp_path, name, converted):
    (tmp_path / "in").mkdir()
    torch.save({"epoch": 1, "state_dict": DATA}, tmp_path / "in" / name)
    write_again(tmp_path / "in", tmp_path / "out", format="safetensors")
    assert listing(tmp_path / "out") == [converted]
    write_again(tmp_path / "in" / name, tmp_path / "bare", format="safetensors")
    with open_checkpoint(tmp_path / "bare") as checkpoint:
        assert torch.equal(checkpoint.read("w"), DATA["w"])


def test_names_that_would_collide_after_conversion(tmp_path):
    both = layout(
        format="torch",
        files=(LayoutFile("a.bin", ("w",)), LayoutFile("a.pt", ("v",))),
        tensors={name: LayoutTensor(name, "F32", (2, 3)) for name in "wv"},
    )
    write(tmp_path / "out", both, read=lambda _: blocks(DATA["w"]), format="safetensors")
    assert "out/a.bin.safetensors" in listing(tmp_path)


def test_torch_file_is_written_one_tensor_at_a_time(tmp_path):
    count = 5
    names = tuple(f"w{i}" for i in range(count))
    wanted = layout(
        format="torch",
        files=(LayoutFile("a.bin", names),),
        tensors={name: LayoutTensor("", "U8", (1000,)) for name in names},
        side_files={},
    )
    open_now = []

    def read(name):
        open_now.append(name)
        assert open_now == [name]
        yield bytes([int(name[1:])]) * 1000
        open_now.remove(name)

    write(tmp_path / "out", wanted, read=read)
    loaded = torch.load(tmp_path / "out/a.bin", weights_only=True, mmap=True)
    assert [int(loaded[name][-1]) for name in names] == list(range(count))
    assert len({tensor.untyped_storage().data_ptr() for tensor in loaded.values()}) == count


def test_read_is_called_once_a_tensor(tmp_path):
    weight = torch.ones(2)
    torch.save({"a": weight, "b": weight, "c": torch.zeros(1)}, tmp_path / "a.pt")
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        for format_wanted in ("torch", "safetensors"):
            calls = []

            def read(name, calls=calls, checkpoint=checkpoint):
                calls.append(name)
                return blocks(checkpoint.read(name))

            write_checkpoint(tmp_path / format_wanted, layout_of(checkpoint), read, lambda _: [], format=format_wanted)
            assert sorted(calls) == ["a", "c"]
