"""The experiments of the two papers that the networks come from, run again and set beside their numbers."""
