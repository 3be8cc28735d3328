"""Ray Serve's autoscaling hook: from Ray's context to `core/scaling` and back."""
