"""Strategy -> placement: which device holds which layer, predicted in plain Python. Start at `select_placement.py`."""
