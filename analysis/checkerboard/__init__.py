"""Is there a checkerboard in the samples, and which upsampling makes it?

Read `frequencies.py` (where an upsampling can lock something to the pixel grid),
`moments.py` (what is kept of a set of images) and `meter.py` (the readings, against
real images). `nuisances.py` has changes that must not be called a pattern,
`controls.py` tries the meter on images whose answer is known, `words.py` turns readings
into sentences, and `measurement.py` keeps them. `kernels.py`, `probe.py` and
`predictions.py` say what the weights of a generator can cause. `jpeg.py` finds the
blocks of JPEG compression.
"""
