"""Workflows: how the stages are wired."""
