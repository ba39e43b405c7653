"""Options for both sides of a connection: message sizes, and when a silent peer is given up.

Either side sends a ping after 10 s without traffic and waits 5 s for the answer. gRPC holds that second time in two
options: with `keepalive_timeout_ms` alone, a process that is frozen while its kernel still accepts data is noticed
only after 70 s.
"""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# A request is a prompt or a block; a megabyte holds 200,000 token ids.
MAX_REQUEST_BYTES = 4 * 1024 * 1024

_KEEPALIVE: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Messages are small and few; measuring the bandwidth costs a ping for each.
    ("grpc.http2.bdp_probe", 0),
)
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *_KEEPALIVE,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.max_pings_without_data", 0),
)
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *_KEEPALIVE,
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.so_reuseport", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # On a busy machine pings come in bunches. That must not end a connection and all its sessions.
    ("grpc.http2.max_ping_strikes", 0),
)
