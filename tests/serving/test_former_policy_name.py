"""Config files from before the move name the policy where it was."""

import pytest


# Ray's own, when it is imported.
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_the_former_name_is_the_same_policy() -> None:
    from serve_app.autoscaling.policy import scale_on_queue_depth
    from serve_app.serving import policy

    assert policy.scale_on_queue_depth is scale_on_queue_depth
