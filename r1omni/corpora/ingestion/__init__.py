"""A corpus in its own layout -> manifest and rejects: adapters, and what opens every file."""
