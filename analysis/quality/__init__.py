"""How far are samples from real images?

Read `metrics.py` (distances between sets of features), `extractor.py` (the feature
net), `reference.py` (the real images and the floor).
"""
