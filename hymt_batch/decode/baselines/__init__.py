"""Engines of other programs, for benchmarks; each runs the workload of `hymt_batch.decode.benchmark`."""
