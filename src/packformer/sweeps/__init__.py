"""Sweeps: their jobs, each in its own folder, and the table of all results."""
