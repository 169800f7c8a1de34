"""A page in the browser: see every face, decide, download. `deid web` starts it."""
