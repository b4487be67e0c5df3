"""The report of a trained head: one page for people. Knows figures and pixels, not where files are.

Functions import matplotlib and jinja2, so that importing this folder loads neither.
"""
