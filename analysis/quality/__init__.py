"""How far are generated images from real images?

Read `metrics.py` first (from two sets of features to numbers), then `extractor.py` (the
network that computes features from images), `pyramid.py` (a distance of patches, for
images of any size and without a network), then `reference.py` (real images, the scores
of samples against them, and the floor). `figures.py` draws what the command `quality`
measured. The tests try the metrics on images whose scores are known in advance:
tests/analysis/quality/test_controls.py and test_pyramid.py.
"""
