"""What the input and output folders hold: layout, metadata checks, file names, provenance."""
