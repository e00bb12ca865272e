"""Whole studies: programs that use nnflow's public names only."""
