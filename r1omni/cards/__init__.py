"""What people must be told: model cards, data cards, the ML-BOM, and where a number came from."""
