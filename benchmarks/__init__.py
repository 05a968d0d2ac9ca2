"""What prunetune costs, measured: `python -m benchmarks`, or `make bench`. docs/performance.md says what each means."""
