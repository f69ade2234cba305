"""Names that ``erestore`` exports: every one loads, at no cost until it is used, and from its former place with a warning."""

import importlib
import subprocess
import sys

import pytest

import erestore
from erestore import errors


def test_every_public_name_loads():
    for name in erestore.__all__:
        assert getattr(erestore, name) is not None
    assert set(erestore.__all__) <= set(dir(erestore))
    with pytest.raises(AttributeError, match="has no attribute 'Sore'"):
        erestore.Sore  # noqa: B018


def test_every_error_is_public():
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert classes <= set(erestore.__all__)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, erestore; erestore.UsageError; print(*(m for m in ('torch', 'numpy', 'fsspec') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize(
    ("module", "name"), [("quality", "Quality"), ("gating", "Gate"), ("probe_settings", "ProbeSettings")]
)
def test_former_places_warn(module, name):
    with pytest.warns(DeprecationWarning, match=f"Import {name} from erestore"):
        assert getattr(importlib.import_module(f"erestore.model.{module}"), name) is getattr(erestore, name)
