"""A load generator for a running stack: closed or open loop, arms interleaved, and what a person feels."""
