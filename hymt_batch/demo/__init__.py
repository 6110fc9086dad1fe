"""A small HunYuan model that translates weather bulletins, and the bulletins with their correct translations."""
