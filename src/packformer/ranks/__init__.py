"""The processes of one run: who started them, what they agree on, and how they end together."""
