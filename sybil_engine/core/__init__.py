"""What every process shares and nothing depends on beneath it: values, errors, ledger, draft tree, noise."""
