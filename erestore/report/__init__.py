"""Spectral reports: data and text."""

from erestore.report.text import diff_text

__all__ = ["diff_text"]
