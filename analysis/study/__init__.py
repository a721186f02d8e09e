"""Which upsampling method leaves the weakest checkerboard, and at what price?

A study trains every method with every seed under one protocol, and compares the methods
over seeds. Read `plan.py` (what is run, and the results), `run.py` (one run is trained
and measured; several run side by side), `page.py` (statistics and tables) and
`figures.py`.
"""
