"""One run of a job: what it resolves once, who decodes, and how its progress is shown."""
