"""One benchmark per promise of speed: `python -m benchmarks [name…]`. Ratios count, not figures of one machine."""
