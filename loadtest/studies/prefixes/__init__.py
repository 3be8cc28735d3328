"""Conversations over several replicas, with and without forwarding to the one with the prefix."""
