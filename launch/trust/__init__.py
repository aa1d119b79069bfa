"""What learned trust in a prior is worth: `python -m launch.trust`."""
