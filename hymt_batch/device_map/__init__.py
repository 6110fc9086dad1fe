"""Strategy -> placement: decide which device holds which layer, without torch. Start at `select_placement.py`."""
