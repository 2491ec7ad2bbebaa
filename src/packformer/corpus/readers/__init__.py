"""Readers: one format a file, each from a stream of bytes, or a source, to documents."""
