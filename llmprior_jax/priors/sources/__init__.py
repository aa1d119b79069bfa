"""Where priors come from: scored, proposed or demonstrated actions, or a class of your own."""
