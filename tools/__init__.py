"""What developers and CI run: quick start, benchmarks, fixtures, oracles."""
