"""The drafter: hosts the draft model and runs ahead of the commits."""

import sybil_engine.serving.polling  # noqa: F401  before gRPC
