"""The decoding engine: turns prompts into translations. Start at `engine.py`."""
