"""How processes of a job are started and stopped. Start at `pool.py`."""
