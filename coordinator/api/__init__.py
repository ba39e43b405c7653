"""What clients call: thin adapters over the generation core."""
