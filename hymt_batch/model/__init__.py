"""Tokenizer and network: verified files, dtype, stop ids. Start at `prepare.py`; ModelConfig is in `settings.py`."""
