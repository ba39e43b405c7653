"""When to try again, as the status of a gRPC call says it: google.rpc.RetryInfo in its details."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

Trailers = tuple[tuple[str, str | bytes], ...]


def retry_trailers(code: grpc.StatusCode, reason: str, retry_s: float) -> Trailers:
    """The trailing metadata of a call that ends with this status, and may be tried again after `retry_s`."""
    delay = Duration()
    delay.FromNanoseconds(int(retry_s * 1e9))
    status = status_pb2.Status(code=code.value[0], message=reason)
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return tuple(rpc_status.to_status(status).trailing_metadata)


def retry_s(error: grpc.aio.AioRpcError) -> float | None:
    """After how many seconds the call may be tried again; None if its status does not say."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # What stands between may have replaced the status, and left its details.
        return None
    info = error_details_pb2.RetryInfo()
    if status and any(detail.Unpack(info) for detail in status.details):
        return info.retry_delay.ToNanoseconds() / 1e9
    return None
