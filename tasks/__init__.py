"""Prefect tasks: one short file per step, with retries, caching, names and artifacts.

A task wraps one call of another room. Records pass between tasks, never arrays.
"""
