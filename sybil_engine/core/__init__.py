"""The lowest layer, shared by all processes: values, errors, ledger, draft tree, noise."""
