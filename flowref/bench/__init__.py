"""Measurements: how fast blocks are side by side, and how accurate what they are made of is, on this machine.

command   `flowref bench`: contenders, presets, measure, timing, results, report, plot
scalars   torch's tanh, exp, log, sigmoid, softplus and the three Ψ, every float32 argument
"""
