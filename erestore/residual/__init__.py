"""Arithmetic of residuals: spectrum, allocation, quantisation, codecs. Arrays in, arrays out."""
