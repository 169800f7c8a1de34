"""Pipelines on the Hugging Face Hub."""
