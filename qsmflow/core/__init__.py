"""Numerics on torch tensors: no file, no log, no global state."""
