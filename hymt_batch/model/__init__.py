"""Tokenizer and network: verified files, dtype, pad side, stop ids. Start at `prepare.py` (ModelConfig is there)."""
