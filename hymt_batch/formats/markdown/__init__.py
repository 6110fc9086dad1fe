"""Markdown: the inline text of each block is a place; everything else is a gap."""
