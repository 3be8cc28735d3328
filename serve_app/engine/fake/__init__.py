"""An engine without a model: step times from a profile, answers that are made up. For tests."""
