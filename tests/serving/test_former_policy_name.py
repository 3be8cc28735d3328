"""Config files from before the move name the policy where it was."""

from serve_app.autoscaling.policy import scale_on_queue_depth
from serve_app.serving import policy


def test_the_former_name_is_the_same_policy() -> None:
    assert policy.scale_on_queue_depth is scale_on_queue_depth
