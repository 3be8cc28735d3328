"""Real Ray in real time, beside the simulation of the same requests."""
