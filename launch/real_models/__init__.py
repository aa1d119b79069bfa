"""What real language models are worth as priors: `python -m launch.real_models`."""
