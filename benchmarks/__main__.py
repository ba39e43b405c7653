"""`python -m benchmarks` is `sybil bench`."""

import sys

from sybil_engine.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
