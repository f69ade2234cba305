import argparse
import collections
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from checkpoints import assert_same, content, write_again
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.checkpoint import skeleton
from erestore.checkpoint.open import open_checkpoint
from erestore.checkpoint.skeleton import assemble, dismantle
from erestore.errors import CheckpointError, CorruptionError


class RunsCode:
    """Leaves a file behind if anything ever unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    def write(value, name="a.pt"):
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=request.param)
        return tmp_path / name

    return write


def test_plain_state_dict_needs_no_skeleton(save):
    with open_checkpoint(save({"b": torch.ones(2), "a": torch.zeros(())})) as checkpoint:
        assert list(checkpoint.tensors) == ["b", "a"]
        assert checkpoint.structure is None
        assert not checkpoint.is_directory


def test_code_is_named_and_never_run(save, tmp_path):
    for name in ("a.pt", "a.bin", "weights.unknown"):
        path = save({"w": torch.ones(2), "x": RunsCode(tmp_path / "ran")}, name)
        with pytest.raises(CheckpointError, match=r"needs to run code \(posix\.mkdir\)") as caught:
            open_checkpoint(path)
        assert "save_pretrained" in caught.value.hint
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        (argparse.Namespace(x=1), r"argparse\.Namespace"),
        (np.float64(1), r"numpy\._?core\.multiarray\.scalar"),
        (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (range(3), r"range"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_needs_code_is_refused_by_name(save, value, culprit):
    with pytest.raises(CheckpointError, match=rf"needs to run code \((builtins\.)?{culprit}\)"):
        open_checkpoint(save({"state_dict": {"w": torch.ones(2)}, "more": value}))


def test_bare_pickle_with_code(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(RunsCode(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="which torch reads only by running code"):
        open_checkpoint(tmp_path / "a.pkl")
    assert not (tmp_path / "ran").exists()


def test_torchscript_is_refused_by_name(tmp_path):
    torch.save({}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        open_checkpoint(tmp_path / "a.pt")


def test_compressed_entries_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as archive,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as other,
    ):
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(CheckpointError, match="compressed entries"):
        open_checkpoint(tmp_path / "b.pt")


def test_no_tensors(save):
    with pytest.raises(CheckpointError, match="holds no tensors"):
        open_checkpoint(save({"epoch": 3}))


def test_non_contiguous_and_views(save):
    base = torch.arange(12.0).reshape(3, 4)
    path = save({"t": base.T, "part": base[1:], "all": base, "conj": torch.tensor([1 + 2j]).conj()})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.ties == ()
        assert torch.equal(checkpoint.read("t"), base.T)
        assert checkpoint.read("t").is_contiguous()
        assert torch.equal(checkpoint.read("part"), base[1:])
        assert content(checkpoint.read("conj")) == content(torch.tensor([1 - 2j]))


def test_ties_survive(save, tmp_path):
    weight = torch.randn(5, 3)
    path = save({"a": weight, "b": torch.ones(2), "c": weight, "empty": torch.empty(0), "empty2": torch.empty(0)})
    write_again(path, tmp_path / "again.pt")
    assert_same(path, tmp_path / "again.pt")
    with open_checkpoint(tmp_path / "again.pt") as checkpoint:
        assert checkpoint.ties == (("a", "c"),)
    loaded = torch.load(tmp_path / "again.pt", weights_only=True)
    assert loaded["a"].data_ptr() == loaded["c"].data_ptr()
    assert loaded["b"].untyped_storage().nbytes() == 8


def training_checkpoint():
    state = collections.OrderedDict((f"layer.{i}.weight", torch.randn(2, 3)) for i in range(4))
    state._metadata = collections.OrderedDict([("", {"version": 1}), ("layer", {"version": 2})])
    average = {name: value.clone() for name, value in state.items()}
    return {
        "epoch": 3,
        "lr": 0.1,
        "losses": [float("nan"), float("inf"), -0.0, 5e-324, 0.1 + 0.2],
        "odd": (None, True, 2**90, -7, "näme", b"\x00\xff", bytearray(b"x"), 1 + 2j, {3, 1, 2}),
        "torch": [torch.Size([2, 3]), torch.bfloat16, torch.device("cuda:1"), collections.Counter("aab")],
        "ema_state_dict": average,
        "state_dict": state,
        "optimizer": {
            "state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(2, 3)}},
            "param_groups": [{"params": [0, 1], "betas": (0.9, 0.999)}],
        },
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "leaf": torch.ones(1, requires_grad=True),
        "layer.0.weight": "a key that is a tensor's name elsewhere",
        "tied": state["layer.1.weight"],
    }


def same(one, two):
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, one.requires_grad) == (two.dtype, two.shape, two.requires_grad)
        assert content(one) == content(two)
    elif isinstance(one, dict):
        assert list(one) == list(two)
        assert getattr(one, "__dict__", None) == getattr(two, "__dict__", None)
        for key in one:
            same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            same(a, b)
    elif isinstance(one, float):
        assert struct.pack("d", one) == struct.pack("d", two)
    else:
        assert one == two


def test_nested_file_comes_back_type_for_type(save, tmp_path):
    path = save(training_checkpoint())
    with open_checkpoint(path) as checkpoint:
        names = list(checkpoint.tensors)
        assert "layer.0.weight" in names
        assert "ema_state_dict/layer.0.weight" in names
        assert "optimizer/state/0/exp_avg" in names
        assert ("layer.1.weight", "tied") in checkpoint.ties
    write_again(path, tmp_path / "again.pt")
    assert_same(path, tmp_path / "again.pt")
    same(torch.load(path, weights_only=True), torch.load(tmp_path / "again.pt", weights_only=True))


def test_state_dict_with_most_tensors_and_likeliest_key_wins():
    inner = {"w": torch.ones(1), "b": torch.ones(2)}
    for content_, name in (
        ({"ema": dict(inner), "model": dict(inner)}, "ema/w"),
        ({"first": dict(inner), "second": dict(inner)}, "second/w"),
        ({"model": {"state_dict": inner}, "x": torch.ones(1)}, "x"),
        ([{"only": torch.ones(1)}, inner], "0/only"),
    ):
        tensors, _ = dismantle(content_)
        assert {"w", "b"} <= set(tensors)
        assert name in tensors
    assert list(dismantle(torch.ones(1))[0]) == ["tensor"]


def test_colliding_paths_stay_apart():
    tensors, structure = dismantle(
        {"model": {"opt/x": torch.zeros(1), "y": torch.zeros(1)}, "opt": {"x": torch.ones(1)}}
    )
    assert torch.equal(tensors["opt/x"], torch.zeros(1))
    assert torch.equal(tensors["/opt/x"], torch.ones(1))
    assert torch.equal(assemble(structure, tensors)["opt"]["x"], torch.ones(1))


def test_types_that_cannot_be_kept_are_named(save):
    with pytest.raises(CheckpointError, match=r"torch\.layout at 'more/0'"):
        open_checkpoint(save({"w": torch.ones(1), "more": [torch.strided]}))
    with pytest.raises(CheckpointError, match="'s' is not a plain dense tensor"):
        open_checkpoint(save({"s": torch.eye(2).to_sparse()}))


def test_cycles_end():
    loop = {"w": torch.ones(1)}
    loop["self"] = loop
    with pytest.raises(CheckpointError, match="nests deeper"):
        dismantle(loop)


@pytest.mark.parametrize(
    "structure",
    [
        {"dict": [["a", {"tensor": "nope"}]]},
        {"dict": []},
        {"dict": [[{"list": []}, {"tensor": "w"}]]},
        {"dict": 3},
        {"tensor": ["w"]},
        {"dtype": "load"},
        {"list": [{"float": "zz"}, {"tensor": "w"}]},
        {"a": 1, "b": 2},
        {},
        {"list": [{"device": "nowhere"}, {"tensor": "w"}]},
    ],
)
def test_malformed_skeletons(structure):
    with pytest.raises(CorruptionError):
        assemble(structure, {"w": torch.ones(1)})


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.sampled_from([0, 0, 1, 30, 200]),
    legacy=st.booleans(),
)
def test_damaged_files_give_only_checkpoint_errors(tmp_path_factory, edits, cut, legacy):
    path = tmp_path_factory.mktemp("fuzz") / "a.pt"
    torch.save(
        {"w": torch.arange(6.0), "more": [1, {"b": torch.ones(2, 2)}]}, path, _use_new_zipfile_serialization=not legacy
    )
    data = bytearray(path.read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    path.write_bytes(data[: len(data) - cut])
    try:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.tensors:
                content(checkpoint.read(name))
    except CheckpointError:
        pass


def test_few_numbers_that_claim_to_be_many(save):
    with pytest.raises(CheckpointError, match=r"'w' of 'a\.pt' is larger than the whole file"):
        open_checkpoint(save({"w": torch.zeros(1).expand(10**7)}))
    with open_checkpoint(save({"w": torch.arange(3.0).expand(100, 3)})) as checkpoint:
        assert torch.equal(checkpoint.read("w")[99], torch.arange(3.0))


def test_lists_that_hold_each_other_many_times(save, monkeypatch):
    monkeypatch.setattr(skeleton, "MOST_VALUES", 10_000)
    nested = [1]
    for _ in range(30):
        nested = [nested, nested]
    with pytest.raises(CheckpointError, match="more than 10000 values"):
        open_checkpoint(save({"w": torch.ones(1), "nested": nested}))


def test_truncated_zip(tmp_path):
    torch.save({"w": torch.ones(1000)}, tmp_path / "a.pt")
    os.truncate(tmp_path / "a.pt", 3000)
    with pytest.raises(CheckpointError, match="damaged or not a torch file"):
        open_checkpoint(tmp_path / "a.pt")
