"""Training: how does a DCGAN learn from images, and how does a run continue exactly?

Read `data/dataset.py` (images, batch order, noise), `upsampling.py`, `models.py` and
`losses.py` (the networks), `step.py` and `state.py` (one step and what it changes), and
`training.py` (the loop). Then come `evaluation.py`, `run/` (the run folder),
`sampling.py` and `export.py`, and for several devices `devices.py` and `launch.py`.
"""
