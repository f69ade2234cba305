"""The figures of docs/how-to/probe-a-variant.md: MiniLM tuned on film reviews, probed on reviews that it was not tuned on.

Run by hand; it takes minutes, and Chromium to draw::

    python tests/benchmarks/probe_figures.py --write docs

Figures are drawn by the functions of ``erestore.report.figures``, in grey on no background: legible on light and dark pages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import families
from drawing import draw
from labelled_texts import load_task

from erestore.analysis.probe.settings import PROBES, ProbeSettings
from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.report.figures import allocation_figure, perturb_figure, stiefel_figure, truncate_figure
from erestore.report.probe_text import probe_text
from erestore.results.probe import ProbeResult

TEXTS = 32
FIGURES = {
    "noise": perturb_figure,
    "rank": truncate_figure,
    "allocation": allocation_figure,
    "stiefel": stiefel_figure,
}
WIDTH, HEIGHT = 520, 320


def probed(directory: Path) -> ProbeResult:
    """Commit the fine-tune exactly and probe it in all ways."""
    paths = families.minilm_tuned()
    reviews = [example.text for example in load_task("movie", families.cache()).test]
    texts = [reviews[place * len(reviews) // TEXTS] for place in range(TEXTS)]
    store = Store.init(directory)
    store.import_base(paths["base"], name="minilm")
    store.commit(paths["movie"], base="minilm", name="movie", quality=Quality(exact=True))
    return store.probe("movie", settings=ProbeSettings(PROBES), inputs=texts)


def main() -> None:
    """Print what was found, and draw it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="DIRECTORY", help="where the figures go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        result = probed(Path(place) / "store")
    print(probe_text(result, width=None))
    if arguments.write is not None:
        figures = {f"probe-{name}": figure(result) for name, figure in FIGURES.items()}
        draw(figures, arguments.write, WIDTH, HEIGHT)


if __name__ == "__main__":
    main()
