"""The command line of ``packformer train``."""
