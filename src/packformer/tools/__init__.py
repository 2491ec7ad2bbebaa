"""The commands beside ``packformer train``: a module each, which imports its work when it runs."""
