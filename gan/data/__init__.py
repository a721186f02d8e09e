"""Images: where they come from, their order, and the noise beside them.

Read `dataset.py` first: from a name or a path to uint8 images in memory, and batch
order and noise as functions of seed and step. `files.py` and `tfds.py` read folders,
archives and tensorflow-datasets; `images.py` converts and tiles arrays.
"""
