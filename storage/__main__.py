"""`python -m storage`: see what a store holds, take features out of it, and keep it in order."""

import sys

from storage.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
