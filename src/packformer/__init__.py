"""Trains GPT-style language models on packed documents that never attend to each other."""

__version__ = "0.1.0"
