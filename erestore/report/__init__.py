"""Spectral reports: data to text and JSON."""
