"""The run folder: what a run keeps on disk, and how it continues exactly.

Read `folder.py` (which process owns a run folder), `checkpoint.py` (states that are on
disk whole or not at all), `log.py` (scalars and pictures), `health.py` (alarms),
`environment.py` (versions and devices), and `check.py` (verification and repair).
"""
