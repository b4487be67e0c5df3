"""`python -m storage`: inspect a store, export features from it, and maintain it."""

import sys

from storage.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
