"""The base model: a public checkpoint converted, or a tiny one trained from nothing."""
