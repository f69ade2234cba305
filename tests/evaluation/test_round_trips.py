"""Any state dict comes back bit for bit from an exact commit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from state_dicts import Tensors, bits, pairs

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.storage.memory import MemoryStorage
from erestore.store import MARKER

QUALITIES = st.sampled_from(
    [
        Quality(exact=True),
        Quality(exact=True, max_error=0.2),
        Quality(exact_only=True),
        Quality(exact=True, max_error=1e-6),
    ]
)
FEW = settings(
    deadline=None,
    derandomize=True,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def store_in_memory() -> Store:
    storage = MemoryStorage()
    storage.create(MARKER, b'{"erestore":1,"id":"00","read":[],"write":[]}')
    return Store(storage, {"id": "00"})


def write(path: Path, tensors: Tensors, *, as_torch: bool) -> Path:
    if as_torch:
        torch.save(tensors, path.with_suffix(".pt"))
        return path.with_suffix(".pt")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def check(found: dict[str, torch.Tensor], expected: Tensors) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(found[name]) == bits(tensor), name


def round_trip(pair: tuple[Tensors, Tensors, bool], quality: Quality, *, again: bool) -> None:
    base, tuned, is_tied = pair
    store = store_in_memory()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store.import_base(write(place / "base", base, as_torch=False), name="base")
        check(dict(store.state_dict("base")), base)
        store.commit(write(place / "tuned", tuned, as_torch=is_tied), base="base", quality=quality)
        check(dict(store.state_dict("tuned")), tuned)
        if again:  # back to the base's values, against a parent that has gone elsewhere
            back = {name: base.get(name, tensor) for name, tensor in tuned.items()}
            store.commit(write(place / "back", back, as_torch=False), parent="tuned", quality=quality)
            check(dict(store.state_dict("back")), back)
        target = place / "out.pt" if is_tied else place / "out.safetensors"
        store.checkout("tuned", target)
        if is_tied:
            written = torch.load(target, weights_only=True)
            assert written["tied.weight"].data_ptr() == written["anchor.weight"].data_ptr()
            check(written, tuned)
    assert store.fsck(deep=True).clean


@FEW
@given(pair=pairs(), quality=QUALITIES, again=st.booleans())
def test_any_state_dict(pair, quality, again):
    round_trip(pair, quality, again=again)


@pytest.mark.parametrize("quality", [Quality(exact=True), Quality()])
def test_a_tensor_comes_back_to_the_base_s_from_an_extreme(tmp_path, quality):
    """What is too far from its parent is kept whole, also where it is what the base holds."""
    anchor = torch.randn(96, 64, generator=torch.Generator().manual_seed(1))
    base = {"anchor.weight": anchor, "scale": torch.tensor(0.12, dtype=torch.float16)}
    far = base | {"scale": torch.tensor(-2e26, dtype=torch.bfloat16)}
    store = store_in_memory()
    store.import_base(write(tmp_path / "base", base, as_torch=False), name="base")
    store.commit(write(tmp_path / "far", far, as_torch=False), base="base", quality=quality)
    store.commit(write(tmp_path / "back", base, as_torch=False), parent="far", quality=quality)
    check(dict(store.state_dict("back")), base)


@pytest.mark.soak
@settings(FEW, max_examples=500)
@given(pair=pairs(), quality=QUALITIES, again=st.booleans())
def test_very_many_state_dicts(pair, quality, again):
    round_trip(pair, quality, again=again)
