"""Former homes of names that :mod:`erestore` exports itself: importing them from here warns, and ends with version 0.3."""
