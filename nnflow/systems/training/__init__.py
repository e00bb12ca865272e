"""Networks in training as maps: `choose` is where a torch module becomes one, `named` holds the registered ones."""
