"""How far are generated images from real images?

Read `metrics.py` first (from two sets of features to numbers), then `extractor.py` (the
network that computes features from images), then `reference.py` (real images, the
scores of samples against them, and the floor). `figures.py` draws what the command
`quality` measured. The tests try the metrics on images whose scores are known in
advance: tests/analysis/quality/test_controls.py.
"""
