"""Measurements: every arm in one run, interleaved, on the same prompts and to the same end of text."""
