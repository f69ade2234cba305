"""The main job runs to its end, and the README's figures are those that it prints."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import families
import pytest

ROOT = Path(__file__).parents[1]
TOLERANCE = {"movie": 0.15}
"""Of sizes. Threads and processors sum in different orders, so that no two trainings end in the same bits."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    families.rxnfp()
    families.minilm_tuned()
    place = tmp_path_factory.mktemp("figures")
    command = [sys.executable, ROOT / "examples" / "main_job.py", "--work", place / "work", "--json", place / "rows"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ERESTORE_TEST_CACHE": str(families.cache())}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((place / "rows").read_text())


def number(cell: str) -> float:
    return float(re.sub(r"[^0-9.]", "", cell))


@pytest.mark.models
def test_the_table_of_the_readme(figures):
    (table,) = re.findall(
        r"<!-- figures -->\n(.*?)<!-- /figures -->", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    pairs = list(zip(figures[::2], figures[1::2], strict=True))
    assert [line[:2] for line in lines] == [[default["fine-tune"], default["base"]] for default, _ in pairs]
    for (name, _, original, default_size, error, exact_size), (default, exact) in zip(lines, pairs, strict=True):
        near = TOLERANCE.get(name, 0.03)
        assert (default["quality"], exact["quality"]) == ("default", "exact")
        assert number(original) == pytest.approx(default["original_bytes"] / 1e6, rel=0.01)
        assert number(default_size) == pytest.approx(default["stored_bytes"] / 1e6, rel=near)
        assert number(exact_size) == pytest.approx(exact["stored_bytes"] / 1e6, rel=near)
        assert number(error) == pytest.approx(default["relative_error"], rel=0.1)
        assert default["relative_error"] <= 0.01
