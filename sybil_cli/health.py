"""`sybil health`: the standard gRPC health check, for people and for containers."""

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sybil_cli.exits import FAILURE, SUCCESS
from sybil_cli.parameters import SECONDS, Address


@click.command()
@click.argument("address", type=Address())
@click.option("--service", default="", help="Full name of one gRPC service; without it, the whole process.")
@click.option("--timeout", "timeout_s", type=SECONDS, default=3.0, show_default=True)
def health(address: str, service: str, timeout_s: float) -> int:
    """Ask the service at HOST:PORT whether it is ready: prints its status, exits 0 if that is SERVING, else 1."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise click.ClickException(_words(error.code(), address, service, timeout_s)) from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    click.echo(status)
    return SUCCESS if status == "SERVING" else FAILURE


def _words(code: grpc.StatusCode, address: str, service: str, timeout_s: float) -> str:
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return f"nobody answers at {address}; is the service started?"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{address} did not answer within {timeout_s:g} s; allow more with --timeout"
        case grpc.StatusCode.NOT_FOUND:
            return f"{address} does not serve {service}; leave --service out to ask about the whole process"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} has no gRPC health service; is it a port of this engine's?"
        case _:
            return f"the health check of {address} failed with {code.name}"
