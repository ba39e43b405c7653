"""Requests that cannot be decoded, refused with a status that says whose mistake it is."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError


class DecodingInterceptor(grpc.aio.ServerInterceptor):
    """Decodes unary requests where a call can still be aborted: gRPC itself would answer UNKNOWN.

    Calls must be coroutines, not generators. The messages of a stream are decoded as they are read, by the servicer's
    own code: see `first_message` and `SessionStream.read`.
    """

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        serve = handler.unary_stream or handler.unary_unary

        async def decode_and_serve(encoded: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            try:
                request = handler.request_deserializer(encoded)
            except DecodeError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, undecodable("the request", error))
            return await serve(request, context)

        handle = grpc.unary_stream_rpc_method_handler if handler.unary_stream else grpc.unary_unary_rpc_method_handler
        return handle(decode_and_serve, response_serializer=handler.response_serializer)


def undecodable(what: str, error: Exception) -> str:
    """The sentence for a client whose message is not of the type that the call takes."""
    return f"{what} cannot be decoded ({error}); send the message type that the service's proto file names"
