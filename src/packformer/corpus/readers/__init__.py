"""Readers, one format per file: each turns a stream of bytes, or a source, into documents."""
