"""Tokenizer and network: verified files, dtype, pad side, stop ids. Start at `network.py` (ModelConfig is there)."""
