"""The commands besides ``packformer train``. Each module imports its code when it runs."""
