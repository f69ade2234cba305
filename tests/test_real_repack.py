"""Repacking real families: whatever is chosen, values stay within the error, and what was promised is freed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import families
import pytest
import torch

from erestore.api import Store
from erestore.encoding.quality import Quality

pytestmark = pytest.mark.models

ERROR = 0.01


def squared_distance(store: Store, before: Mapping[str, torch.Tensor], after: str) -> float:
    found = store.state_dict(after)
    floating = [name for name, tensor in before.items() if tensor.is_floating_point() and name in found]
    return sum(float((before[name].double() - found[name].double()).square().sum()) for name in floating)


@pytest.mark.parametrize("kind", [pytest.param("rxnfp", marks=pytest.mark.soak), "glyphive"])
def test_a_real_family_stays_within_the_error(kind: str, tmp_path: Path) -> None:
    models = families.rxnfp() if kind == "rxnfp" else families.glyphive()
    base, *names = (
        ("bert_pretrained", "bert_ft", "bert_ft_10k_25s")
        if kind == "rxnfp"
        else (
            "ocrb",
            "courier",
            "dejavu",
            "libmono",
        )
    )
    store = Store.init(tmp_path / "store")
    store.import_base(models[base], name="base")
    for name in names:
        store.commit(models[name], base="base", name=name, quality=Quality(max_error=ERROR))
    store.commit(models[names[-1]], base="base", name="exact", quality=Quality(max_error=ERROR / 2, exact=True))
    before = {name: dict(store.state_dict(name)) for name in (*names, "exact")}
    done = store.repack(max_error=ERROR)
    moved = {each.ref for each in done.repacked}
    assert moved  # the linear part of the exact one is near one of the others, and is not the same
    for name, value in before.items():
        lost = squared_distance(store, value, name)
        if name == "exact" or name not in moved:
            assert lost == 0
        else:
            assert lost <= 1.01 * ERROR * squared_distance(store, value, "base")
    assert store.gc(reflog_days=0, grace_days=0).freed_bytes == done.freed_bytes
    assert store.fsck(deep=True).clean
