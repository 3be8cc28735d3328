"""Decisions: frozen numbers in, a decision with its reason out. Standard library only."""
