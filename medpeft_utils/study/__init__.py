"""A study: a grid of runs, each a notebook executed in its own process, and the records that say what is done."""
