"""show and state_dict: what is said of a commit agrees with what was stored."""

from __future__ import annotations

import pytest
import tiny
import torch
from lineages import reopened

from erestore.api import Store
from erestore.errors import CorruptionError, UnknownRevisionError
from erestore.objects.residual import Residual
from erestore.objects.residual_summary import stored_tensors
from erestore.storage.abc import Storage
from erestore.storage.memory import MemoryStorage


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return tiny.filled_store(MemoryStorage(), tmp_path_factory.mktemp("models")).storage


@pytest.fixture
def store(filled: Storage) -> Store:
    return reopened(filled)


def test_terms_sections_and_errors_are_those_of_the_residual(store: Store) -> None:
    shown = store.show("lossy")
    manifest = store.manifest_of("lossy")
    assert [term.residual for term in shown.terms] == [term.residual for term in manifest.terms]
    own = [term for term in shown.terms if term.own]
    assert len(own) == 1
    assert own[0].coefficient == "1"
    assert own[0].bytes == store.objects.size(own[0].residual)
    residual = Residual.open(store.objects, own[0].residual)
    for tensor in shown.tensors:
        held = residual.tensors.get(tensor.name)
        kinds = tuple(section.codec for section in held.sections) if held else ()
        assert tensor.sections[: len(kinds)] == kinds
        if held:
            norm = held.errors.norm + held.errors.outside
            assert (tensor.squared_error, tensor.squared_norm) == (held.errors.rounded, norm)
            assert tensor.linear_error == held.errors.linear / norm
            assert tensor.relative_error == held.errors.rounded / norm
    counts = {kind: section.tensors for kind, section in shown.sections.items()}
    for kind, count in counts.items():
        assert count == sum(kind in tensor.sections for tensor in shown.tensors)
    stored = sum(section.bytes for section in shown.sections.values())
    segments = sum(segment.stored_length for segment in residual._object.segments)
    assert abs(stored - segments) <= len(shown.sections)
    assert abs(sum(tensor.bytes for tensor in shown.tensors) - segments) <= len(shown.tensors)


def test_errors_add_up_to_the_commits(store: Store) -> None:
    shown = store.show("lossy~1")
    error = sum(tensor.squared_error for tensor in shown.tensors)
    norm = sum(tensor.squared_norm for tensor in shown.tensors)
    assert shown.relative_error == pytest.approx(error / norm, rel=1e-3)
    assert [tensor.squared_error for tensor in shown.tensors] == sorted(
        (tensor.squared_error for tensor in shown.tensors), reverse=True
    )


def test_every_tensor_is_shown_under_its_own_name(store: Store) -> None:
    shown = store.show("exact")
    weights = store.state_dict("exact")
    assert {tensor.name for tensor in shown.tensors} == set(weights)
    assert {tensor.name: tensor.shape for tensor in shown.tensors} == {
        name: tuple(weights[name].shape) for name in weights
    }
    by_name = {tensor.name: tensor for tensor in shown.tensors}
    assert by_name["head.weight"].sections == ("whole",)
    assert by_name["embedding.weight"].sections[-1] == "added rows"
    assert by_name["position_ids"].sections == ()
    assert (shown.whole, shown.added_rows, shown.exact) == (1, 1, True)
    assert shown.patch_bytes == store.objects.size(str(store.manifest_of("exact").patch))


def test_a_base(store: Store) -> None:
    shown = store.show("base")
    assert (shown.edge, shown.base, shown.parents, shown.terms, shown.sections) == ("imported", "base", (), (), {})
    assert set(shown.side_files) == {"config.json", "notes.txt"}
    assert all(tensor.relative_error is None for tensor in shown.tensors)
    with pytest.raises(UnknownRevisionError):
        store.show("nothing")


def test_a_malformed_index_is_corruption(store: Store) -> None:
    with store.objects.writer("residual") as writer:
        writer.add(b"x", raw_length=1, stage="raw")
        good = {"sections": [["vector", {}, [[0, 1]]]], "errors": {"linear": "0", "rounded": "0", "norm": "1"}}
        for tensor in (
            {},
            good | {"sections": [["vector", {}, [[1, 1]]]]},
            good | {"sections": [["vector", {}]]},
            good | {"errors": {"rounded": "0"}},
            good | {"errors": {"rounded": "a", "norm": "b"}},
        ):
            written = writer.finish({"tensors": {"w": tensor}})
            with pytest.raises(CorruptionError, match="malformed index"):
                list(stored_tensors(store.objects.open("residual", written.oid)))
        written = writer.finish({"tensors": {"w": good}})
        assert list(stored_tensors(store.objects.open("residual", written.oid)))


def test_state_dict_reads_one_tensor_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from erestore.variant.variant import Variant

    read: list[str] = []
    original = Variant.tensor
    monkeypatch.setattr(Variant, "tensor", lambda self, name: read.append(name) or original(self, name))
    with store as opened:
        weights = opened.state_dict("exact")
    assert "dense.weight" in weights
    assert "nothing" not in weights
    assert len(weights) == 6
    assert read == []
    assert torch.equal(weights["dense.weight"], tiny.tensors_of(store, "exact")["dense.weight"])
    assert read[0] == "dense.weight"
    with pytest.raises(KeyError):
        weights["nothing"]
    assert tiny.same_tensors(dict(weights), tiny.tensors_of(store, "exact"))
