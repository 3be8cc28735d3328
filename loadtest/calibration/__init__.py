"""Profiles of GPUs, measured on running servers, and whether the simulation predicts those."""
