"""How an engine's sessions use its KV cache."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The sessions and pages of one engine.

    Attributes:
        running_sessions: open ones that hold cells.
        waiting_sessions: open ones that hold none.
        evictions: how often a session has lost its cells.
        prompt_tokens, reused_tokens: of all sessions that started: of their prompts, and of these not to be fed.
        used_pages, free_pages: of the pool; pages kept of earlier prompts count as free.
        shared_pages: of the used ones, those that several sessions use.
    """

    running_sessions: int
    waiting_sessions: int
    evictions: int
    prompt_tokens: int
    reused_tokens: int
    used_pages: int
    free_pages: int
    shared_pages: int
