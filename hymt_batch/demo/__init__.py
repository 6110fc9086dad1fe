"""A small real HunYuan model that translates weather bulletins, and the bulletins with their right translations."""
