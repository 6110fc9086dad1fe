"""The engine: prompts in, translations out. Start at `engine.py`."""
