"""Refuses requests that cannot be decoded, with a status that blames the client."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError


class DecodingInterceptor(grpc.aio.ServerInterceptor):
    """Decodes unary requests itself, so that it can abort the call with a status; gRPC would answer UNKNOWN.

    Calls must be coroutines, not generators. A stream's messages are decoded as they are read; see `first_message` and
    `session_stream`.
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
    """The message to a client whose request is not of the call's type."""
    return f"{what} cannot be decoded ({error}); send the message type that the service's proto file names"
