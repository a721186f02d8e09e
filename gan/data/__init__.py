"""Which images does a run train on, in which order, and with which noise?

Read `dataset.py` first: it turns a name or a path into uint8 images in memory, and
gives batch order and noise as functions of seed and step. `source.py` says what the
readers return; `files.py` reads folders, archives and arrays, `tfds.py` reads
tensorflow-datasets. `images.py` converts and tiles arrays.
"""
