"""What a run keeps on disk, and how it continues exactly.

Read `folder.py` (who owns a run folder), then `checkpoint.py` (states that are there
whole or not at all), `log.py` (scalars and pictures) and `health.py` (alarms).
"""
