"""init: a new store, where there is room for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from erestore.api import Store
from erestore.errors import TargetExistsError
from erestore.ops.init import init


def test_init(tmp_path: Path) -> None:
    made = init(tmp_path / "store")
    assert made.store == str(tmp_path / "store")
    assert Store.open(made.store).id == made.id
    with pytest.raises(TargetExistsError, match="a store at"):
        init(tmp_path / "store")
    with pytest.raises(TargetExistsError, match="holds other files") as caught:
        init(tmp_path)
    assert str(tmp_path / ".erestore") in str(caught.value.hint)
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty")
    assert init("memory://test-init").store == "memory://test-init"
