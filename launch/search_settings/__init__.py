"""The search for the best settings of each agent, baselines and methods alike."""
