"""What prunetune costs, measured: `python -m benchmarks`, or `make bench` (docs/evidence/performance.md)."""
