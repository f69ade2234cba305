"""The list of codecs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from erestore.errors import UnsupportedFormatError
from erestore.residual.codecs import registry
from erestore.residual.codecs.gamma import Gamma


@dataclass
class Point:
    name: str
    held: object

    def load(self):
        return self.held


@pytest.fixture
def offered(monkeypatch):
    """What installed packages offer."""
    points: list[Point] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "erestore.codecs" else [])
    for cached in (registry.codec, registry._offered):
        cached.cache_clear()
    yield points
    for cached in (registry.codec, registry._offered):
        cached.cache_clear()


def test_built_in_codecs_and_what_they_promise():
    promised = {
        "lowrank2": True,
        "remainder": True,
        "gamma": True,
        "vector": True,
        "dense": True,
        "factors": True,
        "ere": False,
        "lowrank": True,
    }
    assert {name: registry.codec(name).reproducible for name in registry._BUILT_IN} == promised
    assert all(registry.codec(name).name == name for name in promised)
    assert registry.known_codecs([*promised, "rows", "acme.tiny", None, 3, ["gamma"]]) == set(promised)


def test_a_package_can_add_a_codec_under_its_own_name(offered):
    offered.append(Point("acme.tiny", Gamma))
    assert registry.codec("acme.tiny") is Gamma
    assert registry.known_codecs(["acme.tiny", "acme.other"]) == {"acme.tiny"}


def test_names_without_a_dot_belong_to_the_format(offered):
    class Impostor:
        pass

    offered += [Point("gamma", Impostor), Point("rows", Impostor)]
    assert registry.codec("gamma") is Gamma
    with pytest.raises(UnsupportedFormatError, match="'rows'"):
        registry.codec("rows")
    assert registry.known_codecs(["gamma", "rows"]) == {"gamma"}
