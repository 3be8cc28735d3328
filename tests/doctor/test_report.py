"""The doctor's report, from this machine and from a cluster's dashboard, and its exit status."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from serve_app.__main__ import main
from serve_app.config.tier import ENV_PREFIX
from serve_app.doctor import findings as findings_module
from serve_app.doctor import report as doctor_module
from serve_app.doctor.page import doctor
from serve_app.doctor.report import Report, diagnose_cluster
from serve_app.local.profiles import load_profile
from serve_app.local.services import RECORD_FILE, record_of_service, running_services
from tests.doctor.dashboard import TOKEN, Dashboard, serving
from tests.fake_nvidia_smi import RTX_2060, T4, put_gpus

RTX_4090 = "GeForce-RTX-4090"


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster, no token, no GPU, no setting from the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith((ENV_PREFIX, "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    put_gpus(monkeypatch, tmp_path, status=6)
    monkeypatch.setattr(doctor_module, "DEFAULT_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor_module, "running_services", lambda: running_services(tmp_path))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(findings_module, "LEAST_MEMORY_BYTES", 0)
    monkeypatch.setattr(findings_module, "_has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(findings_module, "computes_on_cpu", lambda: False)


def apps(profile: str) -> list[dict[str, Any]]:
    return load_profile(profile)["applications"]


def codes(report: Report) -> list[tuple[str | None, str]]:
    return [(finding.tier, finding.code) for finding in report.findings]


def test_a_machine_without_a_gpu_runs_the_cpu_profile() -> None:
    report = diagnose_cluster()
    assert (report.status, report.profile, report.view.source) == ("ok", "local-cpu", "")
    assert [tier.deployment.request.name for tier in report.tiers] == ["web", "chat", "reasoning"]


def test_a_machine_without_a_gpu_cannot_run_a_gpu_profile() -> None:
    report = diagnose_cluster("t4")
    assert codes(report) == [("chat", "no-gpu"), ("reasoning", "no-gpu")]
    assert report.status == "problems"


def test_one_gpu_is_shared_and_its_limits_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_gpus(monkeypatch, tmp_path, T4)
    report = diagnose_cluster()
    assert report.profile == "single-gpu"
    assert codes(report) == []
    (gpu,) = report.tiers[1].gpus.values()
    assert gpu.fits
    assert gpu.slots
    assert gpu.slots < 68_341 / 1024


def test_a_small_gpu_gets_its_own_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_gpus(monkeypatch, tmp_path, RTX_2060)
    assert (diagnose_cluster().profile, diagnose_cluster().status) == ("gpu-6gb", "ok")
    report = diagnose_cluster("single-gpu")
    assert codes(report) == [("chat", "does-not-fit"), ("reasoning", "does-not-fit")]
    assert "less 3.31 for 16-bit weights" in report.findings[0].sentence


def test_memory_of_the_gpu_that_others_hold_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_gpus(monkeypatch, tmp_path, T4.replace("15000", "3000"))
    assert codes(diagnose_cluster()) == [(None, "gpu-memory-held")]


def test_a_driver_that_does_not_answer_and_a_vllm_for_cpus_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(findings_module, "_has_nvidia_gpu", lambda: True)
    assert codes(diagnose_cluster()) == [(None, "driver")]
    put_gpus(monkeypatch, tmp_path, T4)
    monkeypatch.setattr(findings_module, "computes_on_cpu", lambda: True)
    assert codes(diagnose_cluster()) == [(None, "vllm-for-cpu")]


def test_a_pending_tier_of_a_cluster_has_its_reason() -> None:
    dashboard = Dashboard(
        nodes=[("aaaaaaaa", 8, 0, None), ("bbbbbbbb", 8, 1, "T4"), ("cccccccc", 8, 1, None)],
        applications=apps("t4"),
        replicas=[("web", "RUNNING", "aaaaaaaa"), ("chat", "RUNNING", "bbbbbbbb"),
                  ("reasoning", "STARTING", None)],
    )  # fmt: skip
    with serving(dashboard) as address:
        report = diagnose_cluster(address=address, token=TOKEN)
    assert codes(report) == [("reasoning", "gpu-taken")]
    sentence = report.findings[0].sentence
    assert "by chat (1)" in sentence
    assert "10.0.0.1/cccccc has a free GPU without a label" in sentence
    assert report.profile is None


def test_an_application_that_is_not_built_yet_is_judged_by_its_config() -> None:
    dashboard = Dashboard(nodes=[("aaaaaaaa", 8, 1, "L4")], applications=apps("mixed"))
    with serving(dashboard) as address:
        report = diagnose_cluster(address=address, token=TOKEN)
    assert codes(report) == [("chat", "no-such-gpu"), ("reasoning", "no-such-gpu")]
    assert "GeForce-RTX-4090 or else T4, and this cluster has 1 L4" in report.findings[0].sentence


def test_an_empty_cluster_is_judged_by_the_profile_of_its_gpus() -> None:
    nodes = [("aaaaaaaa", 8, 1, "T4"), ("bbbbbbbb", 8, 2, RTX_4090)]
    with serving(Dashboard(nodes=nodes)) as address:
        report = diagnose_cluster(address=address, token=TOKEN)
    assert (report.profile, report.status) == ("mixed", "ok")
    got = {p.tier: p.accelerator_type for tier in report.tiers for p in tier.places}
    assert (got["chat"], got["reasoning"]) == (RTX_4090, RTX_4090)


def test_it_reports_what_a_token_costs_on_each_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSERVE_MODEL", "smollm2")
    nodes = [("aaaaaaaa", 8, 1, "T4"), ("bbbbbbbb", 8, 2, RTX_4090)]
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with serving(Dashboard(nodes=nodes)) as address:
        report = diagnose_cluster("mixed", address=address)
        console = Console(record=True, width=200)
        doctor("mixed", address, as_json=False, console=console)
    assert codes(report) == []
    orders = [tier.cheapest_order for tier in report.tiers if tier.deployment.request.gpus]
    assert [order and order.types for order in orders] == [(RTX_4090, "T4")] * 2
    assert f"the cheapest token first: {RTX_4090} ($" in console.export_text()


@pytest.mark.parametrize(
    ("profile", "gpus"), [("t4", ["T4"]), ("rtx4090", [RTX_4090]), ("mixed", ["T4", RTX_4090])]
)
def test_the_gateway_that_falls_back_to_a_gpu_node_orders_no_gpu(
    monkeypatch: pytest.MonkeyPatch, profile: str, gpus: list[str]
) -> None:
    monkeypatch.setenv("TIERSERVE_MODEL", "smollm2")
    nodes = [(f"{number}aaaaaaa", 8, 2, gpu) for number, gpu in enumerate(gpus)]
    with serving(Dashboard(nodes=nodes)) as address:
        report = diagnose_cluster(profile, address=address, token=TOKEN)
    assert (report.status, codes(report)) == ("ok", [])
    (web, *tiers) = report.tiers
    assert web.deployment.request.gpus == 0.0
    assert (web.gpus, web.requested_order, web.cheapest_order) == ({}, [], None)
    assert [place.choice for place in web.places] == [2]
    assert [len(tier.places) for tier in tiers] == [1, 1]


def test_who_requests_the_dearer_type_first_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSERVE_MODEL", "smollm2")
    monkeypatch.setenv("TIERSERVE_GPU_PRICES_USD_PER_HOUR", '{"T4": 0.01}')
    nodes = [("aaaaaaaa", 8, 1, "T4"), ("bbbbbbbb", 8, 2, RTX_4090)]
    with serving(Dashboard(nodes=nodes)) as address:
        report = diagnose_cluster("mixed", address=address, token=TOKEN)
    assert codes(report) == [("chat", "dearer-first"), ("reasoning", "dearer-first")]
    finding = report.findings[0]
    assert f"chat requests {RTX_4090} first" in finding.sentence
    assert "label_selector request T4" in finding.remedy
    assert report.status == "ok"


def test_a_profile_is_judged_as_if_it_replaced_what_is_deployed() -> None:
    dashboard = Dashboard(
        nodes=[("aaaaaaaa", 8, 2, "T4")],
        applications=apps("t4"),
        replicas=[("chat", "RUNNING", "aaaaaaaa"), ("reasoning", "RUNNING", "aaaaaaaa")],
    )
    with serving(dashboard) as address:
        assert diagnose_cluster("t4", address, TOKEN).status == "ok"
        assert codes(diagnose_cluster("rtx4090", address, TOKEN)) == [
            ("chat", "no-such-gpu"), ("reasoning", "no-such-gpu"),
        ]  # fmt: skip


def test_the_memory_that_the_dashboard_reports_of_a_gpu_counts() -> None:
    dashboard = Dashboard(
        nodes=[("aaaaaaaa", 8, 2, "T4")],
        applications=apps("t4"),
        gpus={"aaaaaaaa": [{"index": 0, "name": "Tesla T4", "uuid": "u", "memoryTotal": 4000}]},
    )
    with serving(dashboard) as address:
        report = diagnose_cluster(address=address, token=TOKEN)
    assert codes(report) == [("chat", "does-not-fit"), ("reasoning", "does-not-fit")]


def test_a_replica_that_failed_to_start_is_reported_with_its_last_exception() -> None:
    dashboard = Dashboard(
        nodes=[("aaaaaaaa", 8, 2, "T4")],
        applications=apps("t4"),
        replicas=[("chat", "STARTING", None)],
        message="A replica failed to start.\nModelNotFoundError: no model at 'z'",
    )
    with serving(dashboard) as address:
        report = diagnose_cluster(address=address, token=TOKEN)
    assert ("chat", "failed-to-start") in codes(report)
    assert "chat does not start: ModelNotFoundError: no model" in report.findings[0].sentence


def test_the_environment_names_the_cluster_and_the_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with serving(Dashboard(nodes=[("aaaaaaaa", 8, 1, "T4")])) as address:
        monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", address)
        assert main(["doctor", "--profile", "rtx4090", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"status", "nodes", "tiers", "findings"} <= set(found)
    assert found["cluster"] == address
    assert found["nodes"][0]["accelerator_type"] == "T4"
    assert [f["code"] for f in found["findings"]] == ["no-such-gpu", "no-such-gpu"]
    assert found["findings"][0]["severity"] == "error"


def test_a_cluster_that_was_named_and_does_not_answer_is_no_place_to_look(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--address", "http://127.0.0.1:9"]) == 2
    assert "does not answer" in capsys.readouterr().err
    with serving(Dashboard()) as address:
        assert main(["doctor", "--address", address, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == "cannot look"


def test_bad_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--profile", "no-such-profile"]) == 2
    assert "choose one of local-cpu" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--no-such-option"])
    assert ended.value.code == 2


def test_people_get_sentences_with_what_to_do() -> None:
    console = Console(record=True, width=200)
    assert doctor("t4", None, as_json=False, console=console) == 1
    text = console.export_text()
    for part in (
        "This machine, and profile t4",
        "chat: requests 1 x 1 GPU and 2 CPU on T4",
        "To do: ",
    ):
        assert part in text
    assert doctor(None, None, as_json=False, console=console) == 0
    assert "Everything that is requested can run." in console.export_text()


def put_service(folder: Path, address: str, *, port: int = 9) -> None:
    """A `serve` of this process, whose HTTP port nobody answers at."""
    folder.mkdir()
    (folder / RECORD_FILE).write_text(record_of_service(port, address))
    (folder / "token").write_text(TOKEN)


def test_beside_a_running_service_it_looks_at_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory and its GPUs are taken by itself, which is no error."""
    monkeypatch.setattr(findings_module, "LEAST_MEMORY_BYTES", 2**60)
    tiers = [{"tier": "chat", "ready": True, "running": 3, "slots": 32, "queue_depth": None,
              "replicas": [{"accelerator_type": "T4", "gpu_ids": ["0"]}]}]  # fmt: skip
    monkeypatch.setattr(doctor_module, "reported_tiers", lambda _: tiers)
    dashboard = Dashboard(
        nodes=[("aaaaaaaa", 8, 2, "T4")],
        applications=apps("t4"),
        replicas=[("chat", "RUNNING", "aaaaaaaa"), ("reasoning", "RUNNING", "aaaaaaaa")],
    )
    with serving(dashboard) as address:
        put_service(tmp_path / "ts-1", address)
        report = diagnose_cluster()
        console = Console(record=True, width=200)
        assert doctor(None, None, as_json=False, console=console) == 0
    assert (report.status, report.view.source) == ("ok", address)
    assert report.as_json()["service"]["base_url"] == "http://127.0.0.1:9"
    text = console.export_text()
    assert "The service at http://127.0.0.1:9" in text
    assert "chat: 1" in text
    assert "now: ready, 3 of 32 slots in use, queue depth an unknown number, on T4 (0)" in text


def test_a_service_that_only_starts_is_no_error_and_one_that_is_up_and_silent_is(
    tmp_path: Path,
) -> None:
    dashboard = Dashboard(nodes=[("aaaaaaaa", 8, 2, "T4")], applications=apps("t4"))
    with serving(dashboard) as address:
        put_service(tmp_path / "ts-1", address)
        report = diagnose_cluster()
        assert (codes(report), report.status) == ([(None, "service-starting")], "ok")
        dashboard.status = "RUNNING"
        assert (None, "service-silent") in codes(diagnose_cluster())


def test_of_several_services_one_is_to_be_chosen(tmp_path: Path) -> None:
    with serving(Dashboard(nodes=[("aaaaaaaa", 8, 0, None)])) as address:
        put_service(tmp_path / "ts-1", address, port=8001)
        put_service(tmp_path / "ts-2", address, port=8002)
        with pytest.raises(ValueError, match="ports 8001, 8002: choose one with --port"):
            diagnose_cluster()
        chosen = diagnose_cluster(port=8002).service
        assert chosen is not None
        assert chosen.port == 8002
        # A cluster that is named wins over what happens to run here.
        assert diagnose_cluster(address=address, token=TOKEN).service is None


def test_a_port_without_a_service_and_one_that_only_starts_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--port", "8000"]) == 2
    assert "No `serve` of this user has port 8000" in capsys.readouterr().err
    put_service(tmp_path / "ts-1", "http://127.0.0.1:9")
    assert main(["doctor"]) == 2
    assert "it starts or stops just now" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not both"):
        diagnose_cluster(address="http://127.0.0.1:9", port=9)
