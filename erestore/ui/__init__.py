"""A local web page over a store: read-only, for one person on one machine. It needs the extra ``ui``."""
