"""Which upsampler, at what price: methods and seeds under one protocol.

Read `plan.py`, then `run.py` (one run, measured), `statistics.py` and `page.py`.
"""
