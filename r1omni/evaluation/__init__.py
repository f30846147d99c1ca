"""Evaluation of checkpoints: predict (slow, needs the model); score and report (fast, do not)."""
