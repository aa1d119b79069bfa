"""Playing episodes with agents: stepping, evaluation, rollouts, collecting, and scored states."""
