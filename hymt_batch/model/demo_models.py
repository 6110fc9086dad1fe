"""The weights of each demo model that was ever part of this package, so that a message can name them."""

from __future__ import annotations

NAMES = {
    "80a41d0ce2b66ea423d77b9bd6d8a670bc3a5789be91a45bff6c0f6dd1556194": "demo model 1",
    "e8f094854d522269d940f304f1d89c2d757f338111ca6c88cf7ad32d810478a6": "demo model 2",
    "1543ff994622b38d1ce0d5cb6bfd646c676f5b2167ca41030860e9e8a685aaec": "demo model 3",
    "67074de5627d9761fdaae938cfea5e4f9c7813c9401cee70e5f54feecb0a8323": "demo model 4",
}
"""Sha256 of the weights -> name; the last one is that of this version."""
