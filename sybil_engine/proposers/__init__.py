"""Drafters that need no model: one file each, and what asks them."""
