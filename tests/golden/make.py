"""Write the golden store. Run once a format version; what it wrote is committed and never written again.

``python tests/golden/make.py DIRECTORY`` makes ``DIRECTORY/store`` and ``DIRECTORY/expected.json``. The store holds every
kind of record and section that version 1 of the format has. A second run gives other bytes (ids, times, singular vectors)
but as good a store: readers are held to what it decodes to, not encoders to how it is written.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import weights
from blake3 import blake3
from crafted import craft

from erestore.api import Store
from erestore.arrays import as_array, raw_bytes
from erestore.encoding.quality import Quality
from erestore.records import Commit, Layout, LayoutTensor, Manifest, Part, Term, normal_terms
from erestore.residual.codecs.ere import EreSection
from erestore.storage.condemned import Condemned, write_list
from erestore.variant.variant import Variant

EXACT = Quality(exact=True)
COARSE = Quality(max_error=0.05)


def fill(store: Store, place: Path) -> None:
    """Commit everything."""
    base = weights.base()
    source = weights.write_directory(place / "base", base, "base")
    store.import_base(source, name="base", message="Every dtype")
    shared = {name: base[name] for name in ("dense.bias", "scale")}
    store.import_base(
        weights.write_directory(place / "other-base", shared, "other"), name="other-base", message="Shares tensors"
    )
    first = weights.tuned(base, 100, decay=2.0**-4)
    store.commit(
        weights.write_directory(place / "lossy", first, "lossy"),
        base="base",
        quality=COARSE,
        metrics={"accuracy": "0.75"},
    )
    second = weights.tuned(first, 200)
    store.commit(
        weights.write_directory(place / "lossy-2", second, "lossy"), name="lossy", quality=COARSE, message="Again"
    )
    store.tag("v1", "lossy", message="First release")
    child = weights.tuned(second, 300, rank=2)
    store.commit(weights.write_directory(place / "child", child, "child"), parent="lossy", quality=COARSE)
    grandchild = weights.tuned(child, 400, rank=1)
    store.commit(
        weights.write_directory(place / "grandchild", grandchild, "grandchild"), parent="child", quality=COARSE
    )
    exact = weights.grown(weights.tuned(base, 500), 600)
    store.commit(
        weights.write_directory(place / "team" / "exact", exact, "exact"), base="base", name="team/exact", quality=EXACT
    )
    near = weights.nudged(exact, 700) | {"dense.weight": weights.nudged(base, 701)["dense.weight"]}
    store.commit(weights.write_directory(place / "near", near, "near"), parent="team/exact", quality=EXACT)
    nearer = weights.nudged(near, 702)
    store.commit(weights.write_directory(place / "nearer", nearer, "nearer"), parent="near", quality=EXACT)
    store.commit(
        weights.write_directory(place / "exact-only", weights.nudged(base, 800), "exact only"),
        base="base",
        quality=Quality(exact_only=True),
    )
    shrunk = weights.tuned(base, 900) | {"embed.weight": exact["embed.weight"][:40].contiguous()}
    store.commit(weights.write_directory(place / "shrunk", shrunk, "shrunk"), base="base", quality=COARSE)
    store.commit(weights.write_torch_file(place / "torch.pt", weights.tuned(base, 1000)), base="base", quality=EXACT)
    store.commit(weights.write_adapter(place / "adapter", "base"), base="base")
    store.commit(
        weights.write_directory(place / "paper", weights.tuned(base, 1100), "paper"),
        base="base",
        quality=Quality(codec="ere", rank=3, bits=5),
    )
    merge(store)
    craft(store)
    store.branch("gone", "child")
    store.delete_branches(["gone"])
    store.set_setting("gc.grace_days", "14")
    unreachable = store.objects.put_blob(b"nothing refers to this")
    write_list(store.storage, [Condemned(unreachable.oid, "blob", unreachable.added_bytes, 1_700_000_000_000_000)])


def merge(store: Store) -> None:
    """Write by hand what no verb writes yet: rational and decimal coefficients, parts of several dtypes, a recipe."""
    names = ("lossy", "team/exact", "child", "torch")
    manifests = {name: store.manifest_of(name) for name in names}
    own = {name: store.commit_record(store.resolve(name)).own[0] for name in names}
    exact = manifests["team/exact"]
    layout = Layout.from_record(store.objects.get_record("layout", exact.layout))
    head = layout.tensors["head.weight"]
    tensors = dict(layout.tensors) | {"head.weight": LayoutTensor(head.key, "F16", head.shape)}
    tensors["dense.bias"] = LayoutTensor("dense.bias", "BF16", (32,))
    written = store.objects.put_record("layout", replace(layout, tensors=tensors).to_record())
    parts = (
        Part(Fraction(1, 2), exact.dense["head.weight"][0].tensor),
        Part(0.3, manifests["torch"].dense["head.weight"][0].tensor),
    )
    manifest = Manifest(
        base=exact.base,
        terms=normal_terms(
            (Term(own["lossy"], Fraction(1, 2)), Term(own["team/exact"], Fraction(-1, 3)), Term(own["child"], 0.1))
        ),
        layout=written.oid,
        dense={"head.weight": parts},
        rows={"embed.weight": (Part(Fraction(2), exact.rows["embed.weight"][0].tensor),)},
    )
    operation = store.begin()
    commit = Commit(
        manifest=store.objects.put_record("manifest", manifest.to_record()).oid,
        parents=tuple(store.resolve(name) for name in names),
        edge="merged",
        author=operation.author,
        time=operation.time,
        message="Halves and thirds",
        recipe={"strategy": "weighted", "operands": [[name, store.resolve(name)] for name in names]},
    )
    store.record(commit, "merged", operation, expected=0)


def describe(store: Store) -> dict[str, object]:
    """Return what every tensor and side file decodes to."""
    found: dict[str, object] = {}
    for name in [*store.refs.names(), "lossy~1"]:
        oid = store.resolve(name)
        variant = Variant.open(store.objects, store.commit_record(oid).manifest)
        tensors = {}
        for own, held in variant.layout.tensors.items():
            digest = blake3(raw_bytes(as_array(variant.tensor(own)))).hexdigest(length=16)
            sections = [section for _, residual in variant.residuals for section in residual.sections(held.key)]
            # What is not reproducible is held against a second implementation, not against bits.
            is_ere = any(isinstance(section, EreSection) for section in sections)
            tensors[own] = [held.dtype, list(held.shape), None if is_ere else digest]
        files = {
            path: blake3(store.objects.get_blob(oid)).hexdigest(length=16)
            for path, oid in variant.layout.side_files.items()
        }
        found[name] = {"commit": oid, "tensors": tensors, "side_files": files}
    return found


def main() -> None:
    """Make the store that the first argument names."""
    target = Path(sys.argv[1])
    store = Store.init(target / "store")
    store.author = "golden"
    with tempfile.TemporaryDirectory() as place:
        fill(store, Path(place))
    write_expected(store, target / "expected.json")


def write_expected(store: Store, path: Path) -> None:
    """Write what every tensor and side file decodes to."""
    lines = [f"{json.dumps(name)}: {json.dumps(found, sort_keys=True)}" for name, found in describe(store).items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
