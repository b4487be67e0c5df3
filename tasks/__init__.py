"""Thin edges: retries, caches, names, leases. Here storage and vision meet; nothing is computed.

The modules without a Prefect import (records, survey, chunk, heads, report, worker, worker_pool, devices) run
in the command line before Prefect is loaded, or in child processes where it never is.
"""
