"""`tierserve serve`: a Ray cluster of its own on this machine. Imports no Ray."""
