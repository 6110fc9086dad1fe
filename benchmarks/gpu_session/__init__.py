"""The first minutes on a GPU: one command that measures, compares and decides; see docs/gpu.md. Never run on a GPU."""
