"""Models: loading, tokenizer fingerprints, the slotted cache, the ragged forward pass, exact numerics."""
