"""Configurations by name, `--config=quickstart`, each with what was measured with it."""
