"""A store: objects, refs and configuration at one URL. No verb lives here; ``erestore.api.Store`` adds them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from erestore.errors import (
    ConflictError,
    CorruptionError,
    KeyNotFoundError,
    MissingObjectError,
    ProtectedBranchError,
    RemoteError,
    StoreNotFoundError,
    TargetExistsError,
    UnknownRevisionError,
    UnsupportedFormatError,
    UsageError,
)
from erestore.operation import Operation, new_id
from erestore.records import Commit, Manifest
from erestore.revparse import near, resolve
from erestore.settings import PROTECTED, SHARED, read_setting
from erestore.storage.abc import Storage
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.frames import encode_record
from erestore.storage.keys import is_own_key
from erestore.storage.local import LocalStorage
from erestore.storage.log import NumberedLog
from erestore.storage.objects import ObjectStore
from erestore.storage.open import open_storage
from erestore.storage.refs import RefEntry, Refs, check_name
from erestore.storage.sharing import CHOICES
from erestore.storage.spelling import FEATURE as SPELLED_NAMES

MARKER = "erestore.json"
FORMAT_VERSION = 1
FEATURES: tuple[str, ...] = (SPELLED_NAMES,)
"""Store-wide features beyond version 1 that this code knows; objects name what they need themselves."""
FEATURES_PREFIX = "features/"
"""Features that a store has got since it was made: empty objects ``features/read/<name>``, ``features/write/<name>``."""
DIRECTORY = ".erestore"
"""Folder that holds the store of a working directory."""


def stored_bytes(commit: Commit) -> int:
    """Return what a commit added to the store, its own record included (which cannot hold its own size)."""
    return commit.stored_bytes + len(encode_record("commit", dump_canonical(commit.to_record())))


class CommitReceipt(NamedTuple):
    """A commit that was made reachable: its oid, and all bytes that it added to the store."""

    oid: str
    stored_bytes: int


class Store:
    """A store opened at a URL; use :meth:`open` or :meth:`init`.

    Attributes
    ----------
    url : str
    storage : Storage
    objects : ObjectStore
    refs : Refs
    id : str
        Random, made when the store was.
    author : str or None
        Who operations are recorded as; None for the setting ``user.name``.
    environment : Mapping[str, str]
        Variables that override settings; none unless set, so that a program is not steered from outside unawares.
    """

    author: str | None = None
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, storage: Storage, marker: Mapping[str, Any]) -> None:
        self.storage = storage
        self.url = storage.url
        self.objects = ObjectStore(storage)
        self.refs = Refs(storage)
        self.id = str(marker["id"])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at '{self.url}'>"

    @classmethod
    def init(cls, url: str | Path, *, shared: str | None = None, **options: Any) -> Self:
        """Make a new, empty store.

        Parameters
        ----------
        url : str or Path
            A directory, or any URL that fsspec knows.
        shared : str, optional
            For a directory: who may write besides its owner, as in the setting ``core.shared``.
        **options
            See :func:`erestore.storage.open.open_storage`.

        Raises
        ------
        TargetExistsError
            If there is a store already.
        UsageError
            If only directories can be shared in that way.
        UnsafeRemoteError
            If the remote lacks atomic create-if-absent.
        """
        storage = open_storage(url, **options)
        if shared is not None:
            _directory(storage).shared = shared
        if not storage.exists(MARKER):
            marker = _new_marker()
            if storage.create(MARKER, dump_canonical(marker)):
                store = cls(storage, marker)
                if shared is not None:
                    store.configure(SHARED, shared)
                storage.reserve()
                return store
        _read_marker(storage)
        raise TargetExistsError(
            f"There is a store at {storage.url} already.", hint="Use it as it is; in Python, Store.open opens it."
        )

    @classmethod
    def repair(cls, url: str | Path, **options: Any) -> Self:
        """Write a new marker for a store whose own is missing or damaged, and open it.

        The id is a new one, on which nothing in the store depends; features have keys of their own.

        Raises
        ------
        TargetExistsError
            If the marker is whole.
        StoreNotFoundError
            If there is nothing of a store either.
        """
        storage = open_storage(url, **options)
        marker = None
        with suppress(CorruptionError, KeyNotFoundError):
            marker = _read_marker(storage)
        if _is_marker(marker):
            _check_marker(storage.url, marker)
            raise TargetExistsError(f"The marker of the store at {storage.url} is whole.", hint="Use it as it is.")
        if not _has_content(storage):
            raise StoreNotFoundError(
                f"There is no trace of a store at {storage.url}.", hint="`erestore init` makes a new one."
            )
        storage.delete(MARKER)
        storage.create(MARKER, dump_canonical(_new_marker()))
        return cls.open(url, **options)

    @classmethod
    def open(cls, url: str | Path, **options: Any) -> Self:
        """Open an existing store.

        Raises
        ------
        StoreNotFoundError
            If there is none.
        UnsupportedFormatError
            If it needs features that this version lacks.
        """
        storage = open_storage(url, **options)
        try:
            marker = _read_marker(storage)
        except KeyNotFoundError:
            hint = (
                f"`erestore init {shlex.quote(storage.url)}` makes one; --store or $ERESTORE_STORE names another place."
            )
            inside = Path(str(url)) / DIRECTORY
            if inside.is_dir():
                hint = f"There is one inside it: --store {shlex.quote(str(inside))}."
            if _has_content(storage):
                hint = f"Its marker {MARKER} is missing: `erestore init --repair {storage.url}` rewrites it."
            raise StoreNotFoundError(f"There is no store at '{storage.url}'.", hint=hint) from None
        _check_marker(storage.url, marker)
        features = _check_features(storage, marker, "read")
        store = cls(storage, marker)
        store.refs.has_spellings = SPELLED_NAMES in features
        if isinstance(storage, LocalStorage):
            with suppress(CorruptionError):  # fsck reports it
                storage.shared = store.config().get(SHARED, storage.shared)
        return store

    def on(self, storage: Storage) -> Self:
        """Return this store as another storage shows it: the same one with more on top."""
        other = type(self)(storage, {"id": self.id})
        other.author, other.environment = self.author, self.environment
        other.refs.has_spellings = self.refs.has_spellings
        return other

    def require_writable(self) -> None:
        """Make sure that whatever is written or collected now does no harm to what a newer version keeps here.

        On a disk, some space is reserved for operations that free more.

        Raises
        ------
        UnsupportedFormatError
            If the store has a feature that writers must know and this version does not.
        """
        _check_features(self.storage, _read_marker(self.storage), "write")
        self.storage.reserve()

    def begin(self, *, undoes: str | None = None) -> Operation:
        """Start an operation by :attr:`author`, else by the ``user.name`` of the configuration."""
        self.require_writable()
        return Operation.begin(self.author or self.setting("user.name"), undoes=undoes)

    def setting(self, key: str) -> Any:
        """Return one setting's value: from :attr:`environment`, else the store, else the user's file, else the default.

        Raises
        ------
        NotFoundError
            If there is no such key.
        UsageError
            If what is set is not valid.
        """
        return read_setting(key, self.config(), environment=self.environment)

    @cached_property
    def _config_log(self) -> NumberedLog:
        return NumberedLog(self.storage, "config")

    def config(self) -> dict[str, str]:
        """Return the store's configuration."""
        latest = self._config_log.latest()
        if latest is None:
            return {}
        values: dict[str, str] = parse_canonical(latest[1])["values"]
        return values

    def configure(self, key: str, value: str | None) -> None:
        """Set one key of the store's configuration, or remove it with None."""
        self.require_writable()
        directory = _directory(self.storage) if key == SHARED else None
        latest = self._config_log.latest()
        number, values = (latest[0], dict(parse_canonical(latest[1])["values"])) if latest else (0, {})
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
        content = dump_canonical({"values": values, "id": new_id(), "time": time.time_ns() // 1000})
        if self._config_log.append(number, content, lambda _: True) is None:
            raise ConflictError("The configuration was changed by another writer at the same time.", hint="Try again.")
        if directory is not None:  # the entry that says so is shared as well
            directory.share(value or CHOICES[0])

    def is_protected(self, name: str) -> bool:
        """Return whether the setting ``branch.protected`` names a branch."""
        return any(fnmatchcase(name, pattern) for pattern in patterns_of(self.config().get(PROTECTED, "")))

    def require_forward(self, name: str, before: str | None, after: Iterable[str]) -> None:
        """Refuse to move a protected branch anywhere but forward.

        Parameters
        ----------
        name : str
        before : str or None
            Its commit; a name that does not exist may be made.
        after : iterable of str
            Commits that it would lead to: its new one, or the parents of that; none to delete it.

        Raises
        ------
        ProtectedBranchError
            If the branch is protected, and none of them goes back to `before`.
        """
        after = tuple(after)
        if before is None or before in after or not self.is_protected(name):
            return
        if not any(self.is_ancestor(before, oid) for oid in after):
            raise ProtectedBranchError(name, deleted=not after)

    def commit_record(self, oid: str) -> Commit:
        """Return the commit called `oid`."""
        return Commit.from_record(self.objects.get_record("commit", oid))

    def manifest_of(self, revision: str) -> Manifest:
        """Return the manifest of the commit that `revision` names."""
        return self.manifest(self.commit_record(self.resolve(revision)))

    def manifest(self, commit: Commit) -> Manifest:
        """Return the manifest of a commit."""
        return Manifest.from_record(self.objects.get_record("manifest", commit.manifest))

    def record(
        self,
        commit: Commit,
        name: str,
        operation: Operation,
        *,
        expected: int,
        kind: str = "branch",
        subject: str | None = None,
    ) -> CommitReceipt:
        """Write a commit and point the ref `name` to it: the step that makes everything written before it reachable.

        Parameters
        ----------
        commit : Commit
            Its `stored_bytes` counts the objects written for it; the ref's entry is added here.
        name : str
        operation : Operation
        expected : int
            Number of the ref's newest entry as seen before the work began, 0 for none.
        kind : str
        subject : str, optional
            What the reflog says; by default the first line of the commit's message.

        Raises
        ------
        RefConflictError
            If another writer moved the ref meanwhile.
        ProtectedBranchError
            If the branch is protected and the commit does not continue it.
        """
        if expected and (current := self.refs.read(name)) is not None:
            self.require_forward(name, current.oid, commit.parents)
        subject = subject or (commit.message or commit.edge).partition("\n")[0]
        previous = "0" * 64 if expected else None  # only the length of what it will be counts
        entry = RefEntry(
            name, expected + 1, kind, "0" * 64, previous, operation.writer, operation.id, None, operation.time, subject
        )
        commit = replace(commit, stored_bytes=commit.stored_bytes + len(entry.to_bytes()))
        stored = self.objects.put_record("commit", commit.to_record())
        self.refs.update(
            name,
            stored.oid,
            expected=expected,
            kind=kind,
            operation=operation.id,
            writer=operation.writer,
            message=subject,
            undoes=operation.undoes,
        )
        return CommitReceipt(stored.oid, commit.stored_bytes + stored.added_bytes)

    def base_commits(self) -> dict[str, str]:
        """Return name and commit of every imported base.

        A base whose name was deleted goes by the start of its commit's oid, as long as variants use it.
        """
        refs = self.refs.all()
        commits = {entry.oid: self.commit_record(entry.oid) for entry in refs.values() if entry.oid is not None}
        named = {
            name: entry.oid
            for name, entry in refs.items()
            if entry.oid is not None and commits[entry.oid].edge == "imported"
        }
        deleted = {entry.previous for entry in refs.values() if entry.oid is None and entry.previous is not None}
        unnamed = {oid: commit for oid in deleted - set(named.values()) if (commit := self._imported(oid)) is not None}
        if not unnamed:
            return named
        in_use = {self.manifest(commit).base for commit in commits.values() if commit.edge != "imported"}
        in_use -= {self.manifest(commits[oid]).base for oid in named.values()}
        return named | {oid[:12]: oid for oid in sorted(unnamed) if self.manifest(unnamed[oid]).base in in_use}

    def _imported(self, oid: str) -> Commit | None:
        """Return the commit called `oid` if it is a base that is still in the store."""
        try:
            commit = self.commit_record(oid)
        except MissingObjectError:
            return None
        return commit if commit.edge == "imported" else None

    def base_names(self) -> list[str]:
        """Return the names of the bases, sorted."""
        return sorted(self.base_commits())

    def bases(self) -> list[str]:
        """Return the oids of the base records that refs name or variants use."""
        return [self.manifest_of(oid).base for oid in self.base_commits().values()]

    def base_name(self, base: str) -> str:
        """Return what :meth:`base_commits` calls the base record `base`, else the start of its oid."""
        for name, oid in self.base_commits().items():
            if self.manifest_of(oid).base == base:
                return name
        return base[:12]

    def is_ancestor(self, oid: str, descendant: str) -> bool:
        """Return whether `oid` is `descendant` or one of the commits that it goes back to."""
        visited, waiting = set(), [descendant]
        while waiting:
            if (current := waiting.pop()) == oid:
                return True
            if current not in visited:
                visited.add(current)
                waiting += self.commit_record(current).parents
        return False

    def root(self, oid: str) -> str:
        """Return the first commit without parents that first parents lead to."""
        while parents := self.commit_record(oid).parents:
            oid = parents[0]
        return oid

    def has_ref(self, name: str) -> bool:
        """Return whether `name` is an existing ref."""
        try:
            entry = self.refs.read(check_name(name))
        except UsageError:
            return False
        return entry is not None and entry.oid is not None

    def resolve(self, revision: str) -> str:
        """Return the oid of the commit that a revision names; see :func:`erestore.revparse.resolve`."""
        return resolve(self.objects, self.refs, revision)

    def ref(self, name: str) -> RefEntry:
        """Return the newest entry of an existing ref."""
        try:
            entry = self.refs.read(check_name(name))
        except UsageError:
            entry = None
        if entry is None or entry.oid is None:
            raise UnknownRevisionError(name, self.near(name))
        return entry

    def near(self, name: str) -> tuple[str, ...]:
        """Return names of branches and tags that look like `name`."""
        return near(self.refs, name)


def patterns_of(text: str) -> tuple[str, ...]:
    """Return the patterns of a comma-separated list."""
    return tuple(pattern for part in text.split(",") if (pattern := part.strip()))


def find_store(start: Path) -> Path | None:
    """Return the nearest ``.erestore`` folder that is a store, from `start` upward.

    Raises
    ------
    StoreNotFoundError
        If one is a link to nothing, such as to a disk that is not mounted: another store is not what was meant.
    """
    for directory in (start, *start.parents):
        folder = directory / DIRECTORY
        if (folder / MARKER).is_file():
            return folder
        if folder.is_symlink() and not folder.exists():
            raise StoreNotFoundError(
                f"'{folder}' is a link to '{folder.readlink()}', which does not exist.",
                hint="Mount the disk that it is on, or remove the link.",
            )
    return None


def _read_marker(storage: Storage) -> Any:
    """Return the marker of a store.

    Raises
    ------
    RemoteError
        If a web server answers in the place of a storage: a console, a captive portal.
    CorruptionError
        If it is damaged; the hint says how to repair it.
    """
    content = storage.read(MARKER)
    if content.lstrip()[:1] == b"<" and "://" in storage.url:
        raise RemoteError(
            f"A web page answers at {storage.place}, and no storage.",
            hint="Correct the endpoint (for S3: AWS_ENDPOINT_URL, the address of the API and not of a console).",
        )
    try:
        return parse_canonical(content)
    except CorruptionError as error:
        raise CorruptionError(
            f"The marker {MARKER} of the store at {storage.url} is {'damaged' if content else 'empty'}.",
            hint=f"`erestore init --repair {storage.url}` rewrites it and changes nothing else.",
        ) from error


def _is_marker(marker: Any) -> bool:
    return isinstance(marker, dict) and type(marker.get("erestore")) is int and "id" in marker


def _has_content(storage: Storage) -> bool:
    return any(is_own_key(entry.key) for folder in ("objects/", "refs/") for entry in storage.list(folder))


def _new_marker() -> dict[str, Any]:
    return {"erestore": FORMAT_VERSION, "id": new_id(), "read": [], "write": []}


def _directory(storage: Storage) -> LocalStorage:
    if isinstance(storage, LocalStorage):
        return storage
    raise UsageError(
        f"The store at {storage.url} has no file permissions.", hint="Whoever has credentials for it shares it."
    )


def _check_marker(url: str, marker: Any) -> None:
    if not _is_marker(marker):
        raise UnsupportedFormatError(f"{url} is not a store that this version understands.")
    if marker["erestore"] != FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"The store at {url} needs format {marker['erestore']}, which this version of erestore does not know.",
            hint="Upgrade erestore to read it.",
        )


def _check_features(storage: Storage, marker: Any, purpose: Literal["read", "write"]) -> set[str]:
    """Return the features that it takes to read or write the store."""
    prefix = f"{FEATURES_PREFIX}{purpose}/"
    needed = {*marker.get(purpose, ()), *(entry.key.removeprefix(prefix) for entry in storage.list(prefix))}
    if unknown := sorted(needed - set(FEATURES)):
        raise UnsupportedFormatError(
            f"To {purpose} the store at {storage.url} takes the feature '{unknown[0]}', which is unknown here.",
            hint="Upgrade erestore.",
        )
    return needed
