"""The command lines: from arguments to an exit status."""
