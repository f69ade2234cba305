"""What is stored beside a layout: the skeletons of its torch files, and what its configuration says of quantisation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from erestore.checkpoint.quantised_weights import stated_quantisation
from erestore.records import Layout
from erestore.storage.objects import ObjectStore


def read_structure(objects: ObjectStore, layout: Layout) -> Any:
    """Return the skeletons of a layout's torch files, by file name; None if it has none."""
    return json.loads(objects.get_blob(layout.structure)) if layout.structure else None


def quantisation_of(objects: ObjectStore, layout: Layout) -> Mapping[str, Any]:
    """Return what a variant's configuration says of how its weights are quantised; empty where it says nothing."""
    return stated_quantisation(layout.side_files, lambda name: objects.get_blob(layout.side_files[name]))
