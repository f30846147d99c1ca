"""Where and how a stage runs: device, ranks, states, signals, progress. No result depends on it."""
