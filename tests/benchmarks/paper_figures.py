"""Draw the counterparts of the paper's figures 2 and 3 of real models, for docs/how-to/see-what-changed.md.

Run by hand::

    python tests/benchmarks/paper_figures.py --write docs

The models are fine-tunes of MiniLM on film reviews after growing numbers of steps, which are made on first use and kept where
the tests keep theirs, and one of rxnfp. Figures 4, 7 and 8 are drawn by probe_figures.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import families
from drawing import draw

from erestore.api import Store
from erestore.report.figures import ratio_figure, spectra_figure
from erestore.results.diff import DiffResult
from erestore.results.diff_details import Spectrum

STEPS = (8, 24, 120)
LAYER = "encoder.layer.5.attention.self.value.weight"
WIDTH, HEIGHT = 640, 360


def spectra(place: Path) -> Iterator[tuple[str, Spectrum]]:
    """Commit the fine-tune after every number of steps; yield what it changed of one matrix by then."""
    store = Store.init(place)
    store.import_base(families.minilm()["base"], name="minilm")
    for steps in STEPS:
        tuned = families.minilm_tuned(task="movie", steps=steps)["movie"]
        details = store.diff("minilm", tuned, details=True, tensors=f"*{LAYER}").details
        assert details
        (found,) = details.values()
        assert found.spectrum is not None
        yield f"{steps} steps", found.spectrum


def reactions(place: Path) -> DiffResult:
    """Commit BERT tuned to classify reactions; return how it differs from its base."""
    store, paths = Store.init(place), families.rxnfp()
    store.import_base(paths["bert_pretrained"], name="bert")
    store.commit(paths["bert_ft"], base="bert", name="reactions")
    return store.diff("bert", "reactions", details=True)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, required=True, metavar="DIRECTORY", help="where the figures go")
    arguments = parser.parse_args()
    arguments.write.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        found = {
            "diff-spectra": spectra_figure(dict(spectra(Path(place) / "reviews"))),
            "diff-effective-rank": ratio_figure(reactions(Path(place) / "reactions")),
        }
    draw(found, arguments.write, WIDTH, HEIGHT)


if __name__ == "__main__":
    main()
