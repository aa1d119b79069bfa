"""The commands, their configurations, and the experiments and benchmarks behind some of them."""
