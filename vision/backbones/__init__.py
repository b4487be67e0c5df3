"""The frozen networks and their weights."""
