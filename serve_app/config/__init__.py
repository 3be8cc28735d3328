"""Every setting with its default, its bounds and its documentation, as pydantic models."""
