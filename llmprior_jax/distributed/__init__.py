"""Where a run computes: a mesh of devices, and several processes that train together."""
