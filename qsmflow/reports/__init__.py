"""Pictures, tables and pages that tell what was done and how far to trust it."""
