"""8-bit integers where a processor has kernels for them: convolutions and linear layers of unsigned activations and
signed weights, everything between them in float32.

A scale for each output channel of a weight, one scale and zero point for all of an activation, from ranges that are
measured over a short generation: a picture does not depend on which others are drawn with it, as it would if ranges
were found anew at every call.

    layers.py       which layers could be
    calibration.py  the ranges of what goes in and out of them
    timing.py       which of them are faster for it here
    rewriting.py    QuantizeLinear and DequantizeLinear around those
    weights.py      the tensors, in a file of their own
"""
