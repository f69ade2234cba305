"""Figures of results, as Plotly's: functions from our dataclasses to ``plotly.graph_objects.Figure``.

They need the extra ``report``. In a notebook a figure shows itself; in pages it is drawn in the colours of the reader's theme.
"""

from erestore.report.figures.layers import map_figure, ratio_figure, storage_figure
from erestore.report.figures.probes import allocation_figure, perturb_figure, stiefel_figure, truncate_figure
from erestore.report.figures.spectra import angles_figure, energy_figure, spectra_figure, spectrum_figure

__all__ = [
    "allocation_figure",
    "angles_figure",
    "energy_figure",
    "map_figure",
    "perturb_figure",
    "ratio_figure",
    "spectra_figure",
    "spectrum_figure",
    "stiefel_figure",
    "storage_figure",
    "truncate_figure",
]
