"""The report of a job: one HTML file, readable without script and without network. Reads finished outputs only."""
