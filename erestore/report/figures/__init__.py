"""Figures of results, as Plotly's: functions from our dataclasses to ``plotly.graph_objects.Figure``.

They need the extra ``report``. In a notebook a figure shows itself; in pages it is drawn in the colours of the reader's theme.
"""
