"""Sybil Engine: exact speculative decoding made of services."""

__version__ = "0.1.0"

PROTOCOL_VERSION = 2
