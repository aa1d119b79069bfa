"""Training one agent: online, offline, by policy gradient, or on engines."""
