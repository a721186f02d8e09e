"""Is there a checkerboard in the samples, and where does it come from?

Read `layout.py` (at which frequencies), `spectrum.py` (what is kept of a set of
images), `meter.py` (a set against real images). `kernels.py` and `probe.py` say what
the weights can cause; `controls.py` tries the meter on images whose answer is known.
"""
