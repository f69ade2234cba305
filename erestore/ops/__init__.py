"""One verb per file; each is also a method of ``erestore.Store``."""
