"""What each judge costs in quality, and what it gains in speed: `sybil quality`."""
