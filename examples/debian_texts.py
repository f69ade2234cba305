"""Labelled texts that a Debian system has or can fetch: one-line descriptions of packages, and fortune cookies by topic.

Descriptions come from apt's lists, which change from day to day: what was read once is kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fetch_models import TIMEOUT, FetchError, put_in_place

SECTIONS = {"admin", "devel", "doc", "fonts", "games", "graphics", "java", "net", "perl", "science", "sound", "text"}
ROLES = {"app-data", "data", "devel-lib", "documentation", "metapackage", "plugin", "program", "shared-lib"}
MOST = 900
"""Descriptions of a class."""
LEAST = 100
"""Cookies of a topic, else it is left out."""

VERSION = "1:1.99.1-7.3"
FORTUNES = {
    "fortunes": "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
    "fortunes-min": "9eed5b45064e41133dae0967cf3a17588ad77c014fcc7bf1527fa3ea48e44d07",
}
"""Name of each package to the digest of its file at :data:`VERSION`."""

Texts = list[tuple[str, str]]


def sections(cache: Path) -> Texts:
    """Return descriptions of packages with the section of the archive that each is in: 12 classes."""

    def section(fields: dict[str, str]) -> str | None:
        found = fields.get("Section", "")
        return found if found in SECTIONS else None

    return _kept(cache / "debian-sections.json", lambda: _described(section))


def roles(cache: Path) -> Texts:
    """Return descriptions of packages with the role that Debian's tags give each: 8 classes."""

    def role(fields: dict[str, str]) -> str | None:
        found = re.findall(r"\brole::([a-z-]+)", fields.get("Tag", ""))
        return found[0] if len(found) == 1 and found[0] in ROLES else None

    return _kept(cache / "debian-roles.json", lambda: _described(role))


def fortunes(cache: Path) -> Texts:
    """Return fortune cookies with the topic that each is filed under."""
    directory = cache / f"fortunes-{VERSION.partition(':')[2]}"
    if not directory.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as place:
            made = Path(place, "made")
            for name, digest in FORTUNES.items():
                _run("dpkg-deb", "--extract", str(_download(name, digest, Path(place))), str(made))
            put_in_place(made / "usr" / "share" / "games" / "fortunes", directory)
    return _unambiguous(_cookies(directory))


def _kept(path: Path, read: Callable[[], Texts]) -> Texts:
    """Return what was read once."""
    if not path.exists():
        content = json.dumps(read())
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as place:
            Path(place, path.name).write_text(content)
            Path(place, path.name).replace(path)
    return [(text, kind) for text, kind in json.loads(path.read_text())]


def _described(classify: Callable[[dict[str, str]], str | None]) -> Texts:
    """Return at most :data:`MOST` descriptions of every class, chosen by their content."""
    pairs = []
    for stanza in _run("apt-cache", "dumpavail").split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*(?:\n .*)*)", stanza, re.MULTILINE))
        kind = classify(fields)
        if kind and fields.get("Description"):
            pairs.append((fields["Description"].splitlines()[0], kind))
    if not pairs:
        raise FetchError("apt has no lists of packages: run apt-get update")
    taken: Counter[str] = Counter()
    chosen = []
    for text, kind in sorted(_unambiguous(pairs), key=lambda pair: zlib.crc32(pair[0].encode())):
        taken[kind] += 1
        if taken[kind] <= MOST:
            chosen.append((text, kind))
    return chosen


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> Texts:
    """Keep each text once, and none that is in several classes."""
    kinds: dict[str, set[str]] = {}
    for text, kind in pairs:
        kinds.setdefault(text, set()).add(kind)
    return [(text, *found) for text, found in kinds.items() if len(found) == 1]


def _cookies(directory: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(directory.iterdir()):
        if file.suffix:  # an index, or another name of the same file
            continue
        cookies = [" ".join(cookie.split()) for cookie in file.read_text("utf-8").split("\n%\n")]
        if len(cookies) >= LEAST:
            yield from ((cookie, file.name) for cookie in cookies if cookie)


def _download(name: str, digest: str, place: Path) -> Path:
    _run("apt-get", "download", f"{name}={VERSION}", directory=place)
    (package,) = place.glob(f"{name}_*.deb")
    if hashlib.sha256(package.read_bytes()).hexdigest() != digest:
        raise FetchError(f"the Debian package {name} {VERSION} has not the recorded digest")
    return package


def _run(*command: str, directory: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise FetchError(f"{command[0]} is not here: these texts need a Debian system")
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd=directory)
    except subprocess.TimeoutExpired:
        raise FetchError(f"{command[0]} did not end within {TIMEOUT} seconds") from None
    if run.returncode:
        raise FetchError(
            f"{' '.join(command[:2])} failed: {(run.stderr.strip() or 'it says nothing').splitlines()[-1]}"
        )
    return run.stdout
