"""Optimizers as maps on the extended state: the weights w, then what the optimizer remembers of each weight."""
