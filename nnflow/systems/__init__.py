"""The registered maps: classic ones, optimisers as maps, networks in training."""
