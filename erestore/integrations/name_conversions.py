"""How the library transformers renames tensors of old checkpoints when it loads them, where it is installed.

Its tables are not a promised interface and differ between versions: since 5.0 they are in ``conversion_mapping``, by class and
by model type; from 4.52 on a class had a ``_checkpoint_conversion_mapping``. What cannot be read is as if it were not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from erestore.checkpoint.spelling import Spelling, name_by_name, unwrapped

_Rename = Callable[[str], str]


def library_spelling(config: Mapping[str, Any]) -> Spelling | None:
    """Return how transformers spells the names of a model, None where it is not installed or has no table for it.

    Parameters
    ----------
    config : Mapping[str, Any]
        Content of the model's ``config.json``; its ``architectures`` and ``model_type`` count.
    """
    architectures = config.get("architectures")
    classes = [
        name
        for name in (architectures if isinstance(architectures, list) else ())
        if isinstance(name, str) and name.isidentifier()
    ]
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return None
    try:
        import transformers.core_model_loading  # noqa: F401 - since 5.0
    except ImportError:
        return _class_spelling(classes)
    return _table_spelling(classes, model_type)


def _table_spelling(classes: Iterable[str], model_type: str) -> Spelling | None:
    def spelling(names: Iterable[str]) -> Mapping[str, str]:
        renames = _table(classes, model_type)  # made anew: some remember what they have seen
        spelled = {}
        for name in sorted(names):
            text = unwrapped(name)
            for rename in renames:
                text = rename(text)
            spelled[name] = text
        return spelled

    return spelling if _table(classes, model_type) else None


def _table(classes: Iterable[str], model_type: str) -> list[_Rename]:
    try:
        from transformers import conversion_mapping
        from transformers.core_model_loading import WeightRenaming
        from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

        table_of: Any = conversion_mapping.get_checkpoint_conversion_mapping
        transforms = list(next(filter(None, map(table_of, (*classes, model_type))), ()))
        inner = MODEL_MAPPING_NAMES.get(model_type)
        if isinstance(inner, str) and inner not in classes:
            for transform in table_of(inner) or ():
                transform.scope_prefix = ""
                transform.base_model_prefix = _class(inner).base_model_prefix
                transforms.append(transform)
    except Exception:  # noqa: BLE001 - see above
        return []
    return [_renaming(transform) for transform in transforms if isinstance(transform, WeightRenaming)]


def _renaming(transform: Any) -> _Rename:
    return lambda name: str(transform.rename_source_key(name)[0])


def _class_spelling(classes: Iterable[str]) -> Spelling | None:
    try:
        mappings = [getattr(_class(name), "_checkpoint_conversion_mapping", None) for name in classes]
        rules = [(re.compile(old), new) for old, new in (next(filter(None, mappings), None) or {}).items()]
    except Exception:  # noqa: BLE001 - see above
        return None

    def rename(name: str) -> str:
        name = unwrapped(name)
        return next((pattern.sub(new, name) for pattern, new in rules if pattern.search(name)), name)

    return name_by_name(rename) if rules else None


def _class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)
