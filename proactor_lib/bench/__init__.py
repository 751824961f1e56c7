"""Measurements of this machine: packing, asynchronous training against two other loops, training on one GPU."""
