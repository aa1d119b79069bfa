"""The report on the claims of the paper: what is run, what is claimed, and what came of it."""
