"""Exact numerics: which shapes of a pass compute the same bits on this device."""
