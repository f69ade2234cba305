"""Contract suites and fault injection, shipped for authors of backends and codecs."""
