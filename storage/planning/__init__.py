"""Plan the work: find the missing rows and cut them into chunks."""
