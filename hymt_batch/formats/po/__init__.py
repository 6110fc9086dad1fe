"""Gettext catalogues (.po, .pot): the entries without a translation are places; everything else is a gap."""
