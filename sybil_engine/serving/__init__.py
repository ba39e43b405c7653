"""What the services share: gRPC servers, sessions, the engine thread, conversion to and from the wire."""
