"""Structured output: compiled in a sandbox, closed within its token limit."""
