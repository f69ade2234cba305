"""A variant and its manifest: layout, linear combination, lazy reading of tensors."""
