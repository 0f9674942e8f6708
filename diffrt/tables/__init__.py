"""A sampler as a table of numbers, and what runs one: NumPy, here; ONNX, in exporters/loop.py; JAX, in
diffrt/flax/sampling.py."""
