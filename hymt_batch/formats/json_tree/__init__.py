"""JSON as a tree of keys: every string is a place; everything else is a gap."""
