"""From logits to tokens: shaping, drawing, judging. Pure: all randomness is an argument."""
