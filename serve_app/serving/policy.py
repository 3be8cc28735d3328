"""The name that Serve config files from before 0.2 have for the autoscaling policy."""

from serve_app.autoscaling.policy import scale_on_queue_depth

__all__ = ["scale_on_queue_depth"]
