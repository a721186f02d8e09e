"""Settings: which ones are there, and where do their values come from?

Read `schema.py` (every setting, with its default, range and help text), then
`loader.py` (presets, flags and --set become one checked Config). The TOML files are
presets.
"""
