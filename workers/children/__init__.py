"""The child process: its loop, what it has in flight, and how its death is contained."""
