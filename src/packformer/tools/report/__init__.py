"""``packformer report``."""
