"""The drafter: hosts the draft model and runs ahead of the commits."""
