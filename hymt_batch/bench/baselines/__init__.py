"""Engines of other projects, for benchmarks; each runs the workload of `hymt_batch.bench.benchmark`."""
