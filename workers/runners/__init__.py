"""Runners: where jobs run. One interface, and one file per kind of runner."""
