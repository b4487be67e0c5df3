"""The report of a trained head: one page for people. Knows figures and pixels, not where files lie.

page.py with page.html and style.css, charts.py, thumbnails.py, augmented.py. matplotlib and jinja2 are imported inside functions.
"""
