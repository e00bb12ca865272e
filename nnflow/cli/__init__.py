"""The command line: what is typed (`options`), what it is about (`inputs`), what is shown (`outputs`), `commands`."""
