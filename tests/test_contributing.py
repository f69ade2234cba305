"""CONTRIBUTING.md, followed by somebody who writes a merge strategy and a codec in a package of their own."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from contextlib import chdir
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from erestore import ErestoreError, Store
from erestore.merge import registry as strategies
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.squared_errors import Errors
from erestore.records import Term
from erestore.residual.codecs import registry as codecs

ROOT = Path(__file__).parents[1]
CACHES = (codecs.codec, codecs._offered, strategies._class, strategies._offered)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The folders of ``examples/toy_models.py`` with a store of two."""
    directory = tmp_path_factory.mktemp("toys")
    with chdir(directory):
        runpy.run_path(str(ROOT / "examples" / "toy_models.py"), run_name="__main__")
    store = Store.init(directory / "store")
    for name in ("ft", "mnli"):
        store.commit(directory / name, base=str(directory / "roberta-large"))
    return store


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package of the page, as ``pip install`` leaves it: a module, and entry points in its metadata."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    files = re.findall(r"^```\w+\n# (erestore-toy/\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for name, content in files:
        (tmp_path / Path(name).name).write_text(content)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    )
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        forget()
        import erestore_toy

        yield erestore_toy
        del sys.modules["erestore_toy"]
    forget()


def forget():
    for cached in CACHES:
        cached.cache_clear()


def test_the_strategy_of_the_page_merges(toys, package):
    merged = toys.merge(["ft", "mnli"], strategy="toy.loudest", name="both", max_error=1e-6)
    assert toys.show("both").recipe["strategy"] == "toy.loudest"
    base, *sides, both = (toys.state_dict(name) for name in ("roberta-large", "ft", "mnli", "both"))
    for name in base:
        changes = np.stack([(side[name] - base[name]).numpy() for side in sides])
        wanted = np.take_along_axis(changes, np.abs(changes).argmax(axis=0)[None], axis=0)[0]
        np.testing.assert_allclose((both[name] - base[name]).numpy(), wanted, atol=1e-4)
    assert merged.relative_error <= 1e-6


def test_the_codec_of_the_page_is_read_and_without_it_refused_by_name(toys, package):
    commit = toys.commit_record(toys.resolve("ft"))
    manifest = toys.manifest(commit)
    base, tuned = toys.state_dict("roberta-large"), toys.state_dict("ft")
    with ResidualWriter(toys.objects, manifest.base) as writer:
        for name in sorted(base):
            change = (tuned[name].double() - base[name].double()).numpy()
            matrix = change.reshape(len(change) if change.ndim > 1 else 1, -1)
            norm = float(np.square(matrix).sum())
            writer.add(name, change.shape, (package.encode(matrix),), Errors(norm, norm, norm))
        residual = writer.finish()
    manifest = replace(manifest, terms=(Term(residual.oid, Fraction(1)),), digests={})
    written = toys.objects.put_record("manifest", manifest.to_record())
    toys.record(replace(commit, manifest=written.oid, own=(residual.oid,)), "signs", toys.begin(), expected=0)
    for name in base:
        change, signs = ((toys.state_dict(ref)[name] - base[name]).numpy() for ref in ("ft", "signs"))
        np.testing.assert_array_equal(np.sign(signs), np.where(change > 0, 1, -1))
        assert np.ptp(np.abs(signs)) < 1e-5
    assert toys.fsck(deep=True).clean
    assert toys.show("signs").sections["toy.signs"]
    del sys.path[0]
    forget()
    with pytest.raises(ErestoreError, match=r"'toy\.signs'") as raised:
        toys.state_dict("signs")[name]
    assert raised.value.exit_code == 7
