"""Faster layers, and chunks of a prompt fed at the same time."""
