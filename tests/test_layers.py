"""Imports point down: the layers of the package, read from its sources.

Imports inside functions and for type checking count as well; they show what a module knows of another.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import erestore

PACKAGE = Path(erestore.__file__).parent

LEVELS = (
    {"model"},
    {"__init__", "__main__", "testing"},
    {"cli"},
    {"ui"},
    {"api"},
    {"ops"},
    {"repacking"},
    {"analysis", "history"},
    {"ingest"},
    {"encoding", "algebra"},
    {"variant"},
    {"objects"},
    {"dry_run"},
    {"store", "report", "integrations"},
    {"revparse", "settings"},
    {"operation"},
    {"residual", "checkpoint", "storage", "execute"},
    {"results", "merge", "records", "commit_graph"},
    {"spool", "arrays", "compression", "progress", "display"},
    {"errors"},
)
"""From the top; what stands on one level knows nothing of its neighbours."""

ROOMS = ({"analysis.diff", "analysis.probe"}, {"analysis.similarity", "analysis.inference"})
"""The same for the rooms of `analysis`."""

ALONE = {"ops"}
"""Packages whose modules do not import each other either: one verb per file."""

LAZY = {"__init__", "ops"}
"""Import by a computed name what lies below them."""

WITHOUT_ARRAYS = {
    "storage",
    "records",
    "commit_graph",
    "compression",
    "progress",
    "display",
    "results",
    "errors",
    "store",
}
"""Imported by verbs that print metadata, or by other implementations of the format."""

ARRAYS = {"torch", "numpy"}

LEVEL_OF = {unit: level for level, units in enumerate((*LEVELS, *ROOMS)) for unit in units}


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name inside the package, such as ``ops.commit`` or ``storage`` for a package itself, to its file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def imported(module: str, source: str, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that a module imports, ``from package import module`` as the module."""
    is_package = known.get(module, Path()).name == "__init__.py"
    home = ["erestore", *(module.split(".") if module != "__init__" else [])]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - (is_package and node.level > 0)
            origin = ".".join([*home[: len(home) - up], *filter(None, [node.module])]) if node.level else node.module
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield node.lineno, whole if whole.removeprefix("erestore.") in known else origin
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = node.args[0]
            yield node.lineno, name.value if isinstance(name, ast.Constant) else "(computed)"


def violations(module: str, source: str, known: dict[str, Path]) -> Iterator[str]:
    """Say which imports of a module go up, sideways or where they must not."""
    unit = module.split(".", maxsplit=1)[0]
    for line, name in imported(module, source, known):
        where = f"{module}:{line} imports {name}"
        root, _, inside = name.partition(".")
        if root == "(computed)":
            if module not in LAZY:
                yield f"{where}: a name that cannot be checked"
        elif root in ARRAYS:
            if unit in WITHOUT_ARRAYS:
                yield f"{where}: this layer knows no arrays"
        elif root != "erestore":
            continue
        elif not inside:
            if unit != "model":  # former homes of public names, until version 0.3
                yield f"{where}: nothing imports the package root"
        else:
            other = inside.split(".")[0]
            if unit == other == "analysis":
                here, there = (".".join(name.split(".")[:2]) for name in (module, inside))
                if here != there and LEVEL_OF.get(here, -1) >= LEVEL_OF.get(there, -1):
                    yield f"{where}: upwards or a sibling in analysis"
            elif unit == other:
                if unit in ALONE and module != unit and inside not in (unit, module):
                    yield f"{where}: verbs do not import each other"
            elif unit not in LEVEL_OF or other not in LEVEL_OF:
                yield f"{where}: belongs to no layer"
            elif LEVEL_OF[unit] == LEVEL_OF[other]:
                yield f"{where}: a sibling"
            elif LEVEL_OF[unit] > LEVEL_OF[other]:
                yield f"{where}: upwards"


def test_every_module_has_a_layer():
    assert {name.split(".")[0] for name in MODULES} <= LEVEL_OF.keys()
    assert len(MODULES) > 50


def test_imports_point_down():
    assert [line for name, path in MODULES.items() for line in violations(name, path.read_text(), MODULES)] == []


def test_no_modules_import_each_other():
    graph = nx.DiGraph()
    for name, path in MODULES.items():
        for _, imports in imported(name, path.read_text(), MODULES):
            other = imports.removeprefix("erestore.")
            if other in MODULES and other != name:
                graph.add_edge(name, other)
    assert graph.number_of_edges() > 1000
    assert [sorted(ring) for ring in nx.strongly_connected_components(graph) if len(ring) > 1] == []


def test_no_room_holds_much_of_the_package():
    lines = Counter()
    for name, path in MODULES.items():
        lines[name.partition(".")[0]] += len(path.read_text().splitlines())
    assert max(lines.values()) < 0.15 * lines.total()


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("storage.refs", "import erestore.variant.variant", "upwards"),
        ("storage.refs", "from erestore import store", "upwards"),
        ("storage.refs", "from ..variant import write", "upwards"),
        ("storage", "from ..cli.main import main", "upwards"),
        ("storage", "from .. import variant", "upwards"),
        ("residual.entropy", "from erestore.storage.frames import is_oid", "a sibling"),
        ("report.text", "def f():\n    from erestore.store import Store", "a sibling"),
        ("analysis.probe.measure", "from erestore.analysis.diff.side import Side", "upwards or a sibling in analysis"),
        ("records", "if TYPE_CHECKING:\n    from erestore.commit_graph import lineage", "a sibling"),
        ("ops.tag", "from erestore.ops.branch import branch", "verbs do not import each other"),
        ("ops.tag", "from . import branch", "verbs do not import each other"),
        ("ops.tag", "from .branch import branch", "verbs do not import each other"),
        ("api", "from erestore import __version__", "nothing imports the package root"),
        ("cli.main", "import erestore", "nothing imports the package root"),
        ("cli.main", "import erestore.testing", "upwards"),
        ("storage.refs", "def f():\n    import torch.nn", "this layer knows no arrays"),
        ("records", "from numpy import array", "this layer knows no arrays"),
        ("ops.tag", "import_module('erestore.cli.main')", "upwards"),
        ("ops.tag", "importlib.import_module(name)", "a name that cannot be checked"),
        ("ops.tag", "from erestore.elsewhere import thing", "belongs to no layer"),
    ],
)
def test_what_is_not_allowed_is_seen(module, source, reason):
    (found,) = violations(module, source, MODULES)
    assert found.endswith(f": {reason}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ops.commit", "from erestore.variant import variant\nfrom erestore.store import Store\nimport torch"),
        ("storage", "from .refs import Refs\nfrom . import refs"),
        ("residual.codecs.ere", "from erestore.residual.code_packing import pack\nfrom ..packing import pack"),
        ("cli.main", "from erestore.api import Store\nfrom erestore.cli.text import table\nimport click"),
    ],
)
def test_what_is_allowed_is_not(module, source):
    assert list(violations(module, source, MODULES)) == []
