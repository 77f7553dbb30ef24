"""What benchmarks share: processes, stores, load, yardsticks, tables."""
