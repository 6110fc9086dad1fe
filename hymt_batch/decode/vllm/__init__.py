"""vLLM as an engine; start at `engine.py`."""
