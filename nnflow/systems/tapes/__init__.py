"""Losses of a few weights as tapes of scalar instructions, which one machine code runs.

`loops` is the tape and what runs it; `writer` writes one; `elementwise`, `reductions` and `graph` make one of a traced
graph of torch operations.
"""
