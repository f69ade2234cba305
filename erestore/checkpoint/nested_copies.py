"""Second copies of the weights inside a torch file: averages and earlier states beside the state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping

from erestore.checkpoint.abc import Checkpoint, TensorInfo
from erestore.checkpoint.copies import SMALLEST_SHARE
from erestore.checkpoint.names import match_names
from erestore.checkpoint.skeleton import state_dict_names


def nested_copies(checkpoint: Checkpoint) -> list[str]:
    """Return a sentence about every dictionary, beside a file's state dict, that has most of its tensors again.

    They cannot be left out, since the file comes back as it was, and one commit has one value of a tensor.
    """
    if checkpoint.structure is None:
        return []
    entries = state_dict_names(checkpoint.structure)
    groups: dict[tuple[str, str], dict[str, TensorInfo]] = {}
    model: dict[str, TensorInfo] = {}
    for file in checkpoint.files:
        for name in file.tensors:
            path, slash, key = name.rpartition("/")
            if slash and name not in entries:
                groups.setdefault((file.name, path), {})[key] = checkpoint.tensors[name]
            else:
                model[name] = checkpoint.tensors[name]
    way = "save that dictionary alone with torch.save, leave it out of this file, and commit it with --parent"
    return [
        f"'{file}' holds tensors with the weights' names and shapes under '{path}' ({len(tensors)}), which are kept whole; "
        f"to keep them as a small change, {way}."
        for (file, path), tensors in groups.items()
        if _is_copy(tensors, model)
    ]


def _is_copy(tensors: Mapping[str, TensorInfo], model: Mapping[str, TensorInfo]) -> bool:
    keys = match_names(tensors, model).keys
    shared = sum(math.prod(model[key].shape) for name, key in keys.items() if tensors[name].shape == model[key].shape)
    total = sum(math.prod(info.shape) for info in model.values())
    return total > 0 and shared >= SMALLEST_SHARE * total
