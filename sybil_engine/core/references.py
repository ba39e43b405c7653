"""References of models that are neither a folder nor a hub id."""

EMBEDDED_TARGET = "embedded-target"
EMBEDDED_DRAFT = "embedded-draft"
NO_DRAFTER = "none"
"""In the place of a draft model: nobody drafts."""
TARGET_ITSELF = "target"
"""In the place of a draft model: the target's own weights, all or those of its first layers."""
