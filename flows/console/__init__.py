"""What a run reports to a person, and its exit status."""
