"""Sweeps: their jobs, each in its folder, and one table of all."""
