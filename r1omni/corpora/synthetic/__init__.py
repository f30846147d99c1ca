"""Synthetic stand-ins for the real corpora, in the real corpora's own file layouts."""
