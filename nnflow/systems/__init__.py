"""The registered maps: classic ones, optimizers as maps, networks in training."""
