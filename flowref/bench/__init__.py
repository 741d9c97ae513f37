"""Measurements: how accurate what the block is made of is on this machine.

scalars   torch's tanh, exp, log, sigmoid, softplus and the three Ψ, every float32 argument
"""
