"""What can go wrong, as one tree.

SybilError
├── InvalidRequest            the caller's values are wrong: correct the request
│   ├── ContextExceeded       more tokens than the model's context
│   └── InvalidSettings       a flag or an environment variable is wrong: exit 2
├── SessionError              one session broke; the caller reopens it with its ledger
│   ├── CommitGap             a commit starts after the last committed token
│   ├── CommitConflict        a commit contradicts committed tokens
│   ├── SlowReader            the other side does not read what the session sends
│   └── SessionLost           the other side went away
├── Unavailable               nobody can serve this now: try again
│   └── Exhausted             every slot or place in the queue is taken
├── PairMismatch              draft and target models do not belong together
└── ModelError                a model cannot be served
    ├── ModelNotFound         no such folder or hub id
    ├── NoSafetensors         the folder holds no safetensors weights
    ├── NoTokenizer           the folder holds no fast tokenizer
    ├── UnsupportedModel      the architecture is not a causal language model that we can load
    │   └── CacheCannotForget its cache cannot forget single tokens
    └── InexactDevice         no two pass shapes agree bit for bit: exact mode is impossible

Messages are for people: they name the value, what is allowed, and what to do next.
"""


class SybilError(Exception):
    """Root of everything this engine raises on purpose."""


class InvalidRequest(SybilError):
    """A value that the caller chose is out of range."""


class ContextExceeded(InvalidRequest):
    """More tokens than the model's context."""


class InvalidSettings(InvalidRequest):
    """A flag or an environment variable is unknown or out of range."""


class SessionError(SybilError):
    """One session broke; the caller reopens it with its ledger."""


class CommitGap(SessionError):
    """A commit starts after the last committed token."""


class CommitConflict(SessionError):
    """A commit contradicts tokens that are committed already."""


class SlowReader(SessionError):
    """The other side of a session does not read what it sends."""


class SessionLost(SessionError):
    """The other side of a session went away."""


class Unavailable(SybilError):
    """Nobody can serve this now."""


class Exhausted(Unavailable):
    """Every slot, or every place in the queue, is taken.

    Attributes:
        retry_s: when to try again, in seconds from now; None if that is not known.
    """

    def __init__(self, reason: str, retry_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_s = retry_s


class PairMismatch(SybilError):
    """Draft and target models do not belong together."""


class ModelError(SybilError):
    """A model cannot be served."""


class ModelNotFound(ModelError):
    """No such folder or hub id."""


class NoSafetensors(ModelError):
    """The folder holds no safetensors weights."""


class NoTokenizer(ModelError):
    """The folder holds no fast tokenizer."""


class UnsupportedModel(ModelError):
    """The architecture is not a causal language model that can be loaded."""


class CacheCannotForget(UnsupportedModel):
    """The model's cache cannot forget single tokens."""


class InexactDevice(ModelError):
    """No two pass shapes agree bit for bit on this device."""


USER_MISTAKES = (InvalidRequest, ModelError, PairMismatch)
"""Errors that the same values cause again: a program ends with status 2 on these, with 1 on any other."""
