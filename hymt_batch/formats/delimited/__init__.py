"""csv and tsv: one record per row."""
