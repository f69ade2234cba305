"""Merge configurations of mergekit, held against the store: models are revisions, the base is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from erestore.checkpoint.default_name import name_of
from erestore.checkpoint.dtypes import DTYPES, is_floating
from erestore.errors import UnknownRevisionError, UsageError
from erestore.history.revision import require_commit
from erestore.integrations.mergekit import MergekitMerge, read_mergekit
from erestore.integrations.yaml_files import read_yaml
from erestore.records import Base, Manifest
from erestore.store import Store


def checked_recipe(store: Store, path: Path) -> MergekitMerge:
    """Read a merge configuration, and make sure that the store's variants are what it takes them for.

    Raises
    ------
    UsageError
        If it cannot be followed; what is in the way is named.
    UnknownRevisionError
        If a model is no revision.
    """
    configuration = read_mergekit(read_yaml(path))
    manifests = [store.manifest_of(require_commit(store, name, "A merge")) for name in configuration.models]
    if configuration.base_model is not None:
        _check_base(store, configuration.base_model, configuration.models, manifests)
    _check_dtypes(store, configuration.dtypes, manifests[0])
    grown = [name for name, manifest in zip(configuration.models, manifests, strict=True) if manifest.rows]
    if configuration.base_vocabulary and grown:
        raise UsageError(
            f"`tokenizer_source: base` would leave out the words that '{grown[0]}' added to the vocabulary.",
            hint="Leave it out, and --ours, --theirs or --drop decides if the others have no such words.",
        )
    return configuration


def _check_base(store: Store, name: str, models: Sequence[str], manifests: Sequence[Manifest]) -> None:
    commit = _base_commit(store, name)
    if store.commit_record(commit).edge != "imported":
        raise UsageError(
            f"`base_model: {name}` is a variant, and differences are from the base here.",
            hint='Write it as an expression: `erestore merge "a + 0.5*(b - a)" --name NAME`.',
        )
    base = store.manifest_of(commit).base
    for model, manifest in zip(models, manifests, strict=True):
        if manifest.base != base:
            raise UsageError(
                f"`base_model: {name}` is not the base of '{model}', which is '{store.base_name(manifest.base)}'.",
                hint=f"Name that base, or `erestore rebase {model} --onto {name}`.",
            )


def _base_commit(store: Store, name: str) -> str:
    """Return the commit of a base by its name, or by a path that it could have been imported from."""
    try:
        return require_commit(store, name, "A base_model")
    except UnknownRevisionError:
        bases = store.base_commits()
        is_path = name.startswith(("/", "./", "../", "~"))
        if is_path and (oid := bases.get(name_of(name))) is not None:
            return oid
        names = ", ".join(sorted(bases)) or "none yet"
        raise UsageError(f"`base_model: {name}` is not a base of the store.", hint=f"Its bases are {names}.") from None


def _check_dtypes(store: Store, dtypes: Sequence[str], manifest: Manifest) -> None:
    if not dtypes:
        return
    base = Base.from_record(store.objects.get_record("base", manifest.base))
    stored = sorted({DTYPES[tensor.dtype].torch_name for tensor in base.tensors.values() if is_floating(tensor.dtype)})
    for name in dtypes:
        if stored != [name]:
            raise UsageError(
                f"`dtype: {name}` would convert the weights, which are {' and '.join(stored) or 'integers'}.",
                hint="Leave it out, merge, and `erestore checkout`: the result has the data types of its variants.",
            )
