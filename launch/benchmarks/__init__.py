"""The benchmarks behind `launch.benchmark`, one module each."""
