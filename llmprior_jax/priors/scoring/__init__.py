"""log p(a|s) of listed actions, in packed forward passes."""
