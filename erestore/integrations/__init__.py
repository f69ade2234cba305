"""Other libraries: what they offer, turned into what erestore works with. Each is imported when it is needed."""
