"""``packformer study``."""
