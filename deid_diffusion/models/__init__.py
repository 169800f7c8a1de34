"""Weights and where they run."""
