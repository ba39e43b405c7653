"""The coordinator: answers clients, and relays messages between drafters and verifiers. It touches no tensors."""

import sybil_engine.serving.polling  # noqa: F401  before gRPC
