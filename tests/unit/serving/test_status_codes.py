"""Each error in the tree becomes the status that tells a client what to do."""

import inspect

import grpc
import pytest

from sybil_engine.core import errors
from sybil_engine.serving.server import status_code

EXPECTED = {
    errors.SybilError: grpc.StatusCode.INTERNAL,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ContextExceeded: grpc.StatusCode.OUT_OF_RANGE,
    errors.InvalidSettings: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SessionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CommitGap: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CommitConflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SlowReader: grpc.StatusCode.ABORTED,
    errors.SessionLost: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PairMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelError: grpc.StatusCode.INTERNAL,
    errors.ModelNotFound: grpc.StatusCode.INTERNAL,
    errors.NoSafetensors: grpc.StatusCode.INTERNAL,
    errors.NoTokenizer: grpc.StatusCode.INTERNAL,
    errors.UnsupportedModel: grpc.StatusCode.INTERNAL,
    errors.CacheCannotForget: grpc.StatusCode.INTERNAL,
    errors.InexactDevice: grpc.StatusCode.INTERNAL,
}
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SybilError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[errors.SybilError]) -> None:
    assert status_code(kind("why")) is EXPECTED[kind]


def test_the_tree_in_the_docstring_names_every_error_below_its_parent() -> None:
    lines = (errors.__doc__ or "").splitlines()
    drawn = {}
    above: dict[int, str] = {}
    for line in lines:
        word = next(iter(line.lstrip(" │├└─").split()), "")
        if word in {kind.__name__ for kind in KINDS}:
            depth = len(line) - len(line.lstrip(" │├└─"))
            above[depth] = word
            parent_depth = max((shallower for shallower in above if shallower < depth), default=None)
            drawn[word] = None if parent_depth is None else above[parent_depth]
            above = {shallower: name for shallower, name in above.items() if shallower <= depth}
    parents = {kind.__name__: kind.__bases__[0].__name__ for kind in KINDS if kind is not errors.SybilError}
    assert drawn == {"SybilError": None, **parents}
