"""Training: pure losses, rollouts, the DeepSpeed engine, and one module per stage."""
