"""Servers that are started to be measured, and their processes."""
