"""The coordinator: answers clients, and streams between drafters and verifiers. It touches no tensors."""
