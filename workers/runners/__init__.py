"""Runners: where jobs run. One interface, one file a kind."""
