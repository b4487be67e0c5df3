"""What a run tells a person, and its exit status."""
