"""The command line: what is typed (`options`), what it is about (`inputs`), what is shown (`outputs`), `commands`.

`installed`, what `nnflow list` shows, stands by itself: it imports nothing slow.
"""
