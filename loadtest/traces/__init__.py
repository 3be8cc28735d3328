"""Recorded traffic, and the command that fetches more of it."""
