"""The weights of each demo model that was ever part of this package, so that a message can name them."""

from __future__ import annotations

NAMES = {
    "80a41d0ce2b66ea423d77b9bd6d8a670bc3a5789be91a45bff6c0f6dd1556194": "demo model 1",
}
"""Sha256 of the weights -> name; the last one is that of this version."""
