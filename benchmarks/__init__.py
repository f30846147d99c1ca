"""Speed, side by side in one run: `make bench` writes RESULTS.md and results.json."""
