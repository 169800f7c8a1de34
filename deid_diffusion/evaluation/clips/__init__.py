"""Judges clips: frame by frame, pooled, over time, and as files."""
