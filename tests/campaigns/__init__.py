"""Longer runs with a seed and a figure; each is a make target, of which the tests run a small part."""
