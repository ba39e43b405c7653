"""The verifier: hosts the target model and has the last word."""

import sybil_engine.serving.polling  # noqa: F401  before gRPC
