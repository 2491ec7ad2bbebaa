"""Builds a run from its configuration, and runs it to its end."""
