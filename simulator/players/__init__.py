"""Policies of speculation, each an event simulation over one trace."""
