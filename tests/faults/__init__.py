"""The simulated file system, the harnesses that crash a job on it, and tests that crash real processes."""
