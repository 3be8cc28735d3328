"""Profiles of cards, measured on running servers, and whether the simulation foretells those."""
