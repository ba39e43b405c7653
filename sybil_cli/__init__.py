"""The `sybil` command: one file a subcommand, and what they share.

Nothing heavy is imported until the subcommand that needs it runs: `sybil health` is what containers call every second.
"""
