"""The data card of a finished job, for those who release or use its translations."""
