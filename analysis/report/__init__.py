"""How strong is the checkerboard of several runs or sets of images, side by side?

`compare` prints these numbers and `report` shows them on one HTML page. Read
`comparison.py` (what is measured and predicted of each source), `figures.py`, and
`page.py` (the text of the page).
"""
