"""One page, and its figures, about any runs or sets of images.

Read `comparison.py` (what is compared), then `page.py` and `figures.py`.
"""
