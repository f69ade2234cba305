"""Bytes only: backends, framing, objects, refs."""
