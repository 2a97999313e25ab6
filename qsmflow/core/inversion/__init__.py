"""From the local field to susceptibility."""
