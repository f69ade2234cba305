"""Readers and writers of what users have, lazily, tensor by tensor."""
