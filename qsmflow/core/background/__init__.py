"""Removal of the field that sources outside the mask make."""
