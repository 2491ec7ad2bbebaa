"""The composition root: from a configuration to a finished run."""
