"""`sybil bench`: every arm and peer in one run, interleaved, on the same prompts and seeds."""
