"""The run folder: what a run keeps on disk, and how it continues exactly.

Read `folder.py` (which process owns a run folder), `manifest.py` (checkpoints that are
on disk whole or not at all), `start.py` (what a run starts from), `checkpoint.py` (from
files to the state and back), `log.py` (scalars and pictures), `health.py` (alarms),
`environment.py` (versions and devices), `check.py` (verification and repair), and
`listing.py` (a table of runs, and their removal).
"""
