"""What does each layer do to size and position?

Read `arithmetic.py` first: the exact integers of one axis. `keras_layers.py` takes them
from Keras' layers, `audit.py` compares them with what Keras built, and `values.py` with
what a layer computes. `formulas.py`, `draw.py` and `figures.py` show them, and
`resizing.py` does the same for resizes;
`model_files.py` reads the architecture of a Keras file that somebody else made, with
the help of `keras2.py` for files of Keras 2 and of `stand_ins.py` for layers that are
not read; `onnx_layers.py` audits the nodes of an ONNX file, and `torch_layers.py` the
operators of a program of PyTorch.
"""
