"""The networks: architectures, weights with their model cards, and how they are applied to a volume."""
