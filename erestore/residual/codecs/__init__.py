"""One residual codec per file."""
