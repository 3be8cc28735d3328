"""How many replicas each tier needs, and what that rests on."""
