"""Other programs' engines, for benchmarks: each does the workload of `hymt_batch.decode.race` in its own best way."""
