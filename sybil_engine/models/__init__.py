"""Models: loading them, their KV cache, and the passes over both."""
