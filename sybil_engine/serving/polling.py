"""Chooses the older of gRPC's two pollers, in processes that serve; imported before gRPC, which reads this once.

The older poller reads a socket on the thread that waits for it. A message there and back between two processes takes
240 us with it and 330 us with the newer one (two AMD cores, grpcio 1.85, `docs/log.md`).
"""

import os

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
