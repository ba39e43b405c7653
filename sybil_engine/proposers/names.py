"""The names of drafters."""

import difflib
from collections.abc import Iterable

from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import DEFAULT_DRAFTERS, MODEL_DRAFTER


def check_names(names: Iterable[str], offered: Iterable[str]) -> tuple[str, ...]:
    """Check that there are drafters of these names.

    Args:
        names: none: those of DEFAULT_DRAFTERS that there are.
        offered: proposers of the services; a draft model goes without saying.

    Returns:
        The names, each once.

    Raises:
        InvalidRequest: there is none; names the nearest.
    """
    known = (MODEL_DRAFTER, *offered)
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise InvalidRequest(f"there is no drafter {name!r}; {hint}choose from {', '.join(known)}")
    return wanted or tuple(name for name in DEFAULT_DRAFTERS if name in known)
