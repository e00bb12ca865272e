"""Small fully connected networks, compiled: `rows`, `passes`, `costs`, then `gradients`, `observables`, `network`."""
