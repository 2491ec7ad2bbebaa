"""The commands besides ``packformer train``: a module each, which imports its work when it runs."""
