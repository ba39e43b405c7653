"""The coordinator: answers clients, and relays messages between drafters and verifiers. It touches no tensors."""
