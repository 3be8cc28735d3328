"""What the doctor says of a service that runs."""

from pathlib import Path
from typing import Any

from serve_app.doctor.findings import service_findings
from serve_app.local.services import LocalService


def a_service() -> LocalService:
    return LocalService(9, "http://127.0.0.1:9", 1, Path("/nowhere"))


def test_a_service_that_does_not_answer_is_an_error() -> None:
    (finding,) = service_findings(a_service(), None, starting=False)
    assert (finding.severity, finding.code) == ("error", "service-silent")
    (finding,) = service_findings(a_service(), None, starting=True)
    assert (finding.severity, finding.code) == ("warning", "service-starting")


def test_a_tier_that_is_not_ready_is_reported_unless_nobody_asked_for_replicas() -> None:
    def codes(**tier: Any) -> list[str]:
        reported = {
            "tier": "chat",
            "ready": False,
            "replicas_wanted": 1,
            "message": "no GPU.",
        } | tier
        return [
            finding.sentence
            for finding in service_findings(a_service(), [reported], starting=False)
        ]

    assert codes() == ["chat has no replica that answers: no GPU."]
    assert codes(message=None) == ["chat has no replica that answers: Serve has no message."]
    assert codes(ready=True) == []
    assert codes(replicas_wanted=0) == []
