"""Merge strategies: pure functions over coefficients, factors or row tiles. No store, path or commit is seen here."""
