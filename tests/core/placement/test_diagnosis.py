"""Where replicas go, and why one has no place."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.placement.diagnosis import Diagnosis, Severity, diagnose
from serve_app.core.placement.labels import ACCELERATOR_LABEL, in_words, matches
from serve_app.core.placement.nodes import DeploymentRequest, NodeView

T4, RTX_4090 = "T4", "GeForce-RTX-4090"
GIB = 1024.0**3


def node(name: str = "n1", gpu: str | None = T4, **changed: Any) -> NodeView:
    """A free node with one GPU of that type unless said otherwise."""
    defaults: dict[str, Any] = {"cpus": 8.0, "gpus": 1.0, "memory_bytes": 32 * GIB}
    values = defaults | changed
    values.setdefault("cpus_free", values["cpus"])
    values.setdefault("gpus_free", values["gpus"])
    values.setdefault("memory_free_bytes", values["memory_bytes"])
    labels = {ACCELERATOR_LABEL: gpu} if gpu else {}
    return NodeView(name=name, labels=labels, **values)


def request(name: str = "chat", *gpus: str, **changed: Any) -> DeploymentRequest:
    """One replica on a T4 unless said otherwise."""
    values: dict[str, Any] = {"minimum": 1, "target": 1, "cpus": 2.0, "gpus": 1.0} | changed
    values.setdefault("selectors", tuple({ACCELERATOR_LABEL: gpu} for gpu in gpus or (T4,)))
    return DeploymentRequest(name=name, **values)


def only_finding(nodes: list[NodeView], *requests: DeploymentRequest) -> tuple[str, str, str]:
    found = diagnose(nodes, requests).findings
    assert len(found) == 1, found
    return found[0].code, found[0].sentence, found[0].remedy


def places(diagnosis: Diagnosis) -> list[tuple[str, str | None, int]]:
    return [(place.tier, place.accelerator_type, place.choice) for place in diagnosis.places]


def test_each_tier_gets_its_first_choice_and_else_its_second() -> None:
    chat, reasoning = request("chat", T4, RTX_4090), request("reasoning", RTX_4090, T4)
    both = [node("a", T4), node("b", RTX_4090)]
    assert places(diagnose(both, [chat, reasoning])) == [
        ("chat", T4, 1),
        ("reasoning", RTX_4090, 1),
    ]
    twice = [node("a", T4), node("b", T4)]
    assert places(diagnose(twice, [chat, reasoning])) == [("chat", T4, 1), ("reasoning", T4, 2)]


# As `web` of deploy/t4.yaml.
GATEWAY = request(
    "web",
    cpus=0.1,
    gpus=0.0,
    selectors=(
        {ACCELERATOR_LABEL: "!T4", "tierserve/gateway": "!elsewhere"},
        {ACCELERATOR_LABEL: T4, "tierserve/gateway": "!elsewhere"},
    ),
)


def test_the_gateway_goes_where_no_gpu_is_and_else_beside_one() -> None:
    gpu, plain = node("a", cpus=3.0), node("b", None, gpus=0.0)
    found = diagnose([gpu, plain], [GATEWAY, request()])
    assert [(p.tier, p.node, p.choice) for p in found.places] == [("web", "b", 1), ("chat", "a", 1)]
    alone = diagnose([gpu], [GATEWAY, request()])
    assert [(p.tier, p.node, p.choice) for p in alone.places] == [("web", "a", 2), ("chat", "a", 1)]
    assert not found.findings
    assert not alone.findings


def test_the_gateway_without_a_place_asks_for_no_gpu() -> None:
    """As on Kubernetes while the Pod for it is away: the head has no CPU, the T4 is labelled."""
    head, gpu = node("head", None, cpus=0.0, gpus=0.0), node("a")
    labelled = replace(gpu, labels={**gpu.labels, "tierserve/gateway": "elsewhere"})
    code, sentence, remedy = only_finding([head, labelled], GATEWAY)
    assert code == "cpu-short"
    assert "GPU" not in sentence + remedy
    code, sentence, remedy = only_finding([labelled], GATEWAY)
    assert code == "label-missing"
    label = "with no tierserve/gateway=elsewhere"
    assert f"anything but T4 {label} or else T4 {label}" in sentence
    assert "GPU" not in sentence + remedy


def test_two_halves_of_a_gpu_are_a_place_each() -> None:
    half = {"gpus": 0.5, "selectors": ()}
    diagnosis = diagnose([node()], [request("chat", **half), request("reasoning", **half)])
    assert not diagnosis.findings
    assert len(diagnosis.places) == 2


@pytest.mark.parametrize(
    ("nodes", "asked", "code", "says"),
    [
        ([node(gpus=0.0, gpu=None)], request(), "no-gpu", "no node here has a GPU"),
        ([node(gpu=None)], request(), "label-missing",
         f"n1 has a GPU but no label {ACCELERATOR_LABEL}"),
        ([node(gpu="L4"), node("n2", "L4")], request("chat", T4, RTX_4090), "no-such-gpu",
         "T4 or else GeForce-RTX-4090, and this cluster has 2 L4"),
        ([node(gpus_free=0.0, gpu_holders={"reasoning": 1.0})], request(), "gpu-taken",
         "taken, by reasoning (1)"),
        ([node(gpus_free=0.0), node("n2", None)], request(), "gpu-taken",
         "n2 has a free GPU without a label"),
        ([node()], request(gpus=2.0), "gpu-too-small", "the largest has 1"),
        ([node(cpus=1.0)], request(), "cpu-short", "requests 2 CPUs, and n1 has 1 of 1 free"),
        ([node(cpus_free=0.5)], request(), "cpu-short", "0.5 of 8 free"),
        ([node(cpus=1.0, gpus_free=0.0)], request(), "cpu-short", "1 of 1 free"),
        ([node()], request(memory_bytes=64 * GIB), "memory-short",
         "64.0 GiB of memory, and n1 has 32.0"),
        ([node(memory_free_bytes=GIB)], request(memory_bytes=2 * GIB), "memory-short",
         "1.0 of 32.0"),
        ([node()], request(gpus=0.0, selectors=({"zone": "b"},)), "label-missing", "zone=b"),
        ([node(cpus=0.0, gpu=None, gpus=0.0)], request(gpus=0.0, selectors=()), "cpu-short",
         "0 of 0"),
    ],
)  # fmt: skip
def test_a_replica_without_a_place_names_what_is_missing(
    nodes: list[NodeView], asked: DeploymentRequest, code: str, says: str
) -> None:
    found, sentence, remedy = only_finding(nodes, asked)
    assert found == code
    assert sentence.startswith(f"1 replica of {asked.name} cannot be placed: ")
    assert says in sentence
    assert remedy


def test_who_takes_the_gpu_may_be_a_tier_of_the_same_config() -> None:
    code, sentence, _ = only_finding([node()], request("chat"), request("reasoning"))
    assert code == "gpu-taken"
    assert "replica of reasoning" in sentence
    assert "by chat (1)" in sentence


def test_more_replicas_than_the_minimum_are_a_warning() -> None:
    findings = diagnose([node()], [request(minimum=1, target=3)]).findings
    assert [(f.severity, f.code) for f in findings] == [(Severity.WARNING, "gpu-taken")]
    assert findings[0].sentence.startswith("2 replicas of chat")


def test_what_is_placed_already_needs_no_place() -> None:
    full = node(gpus_free=0.0, gpu_holders={"chat": 1.0})
    assert diagnose([full], [request(placed=1)]) == Diagnosis([], [])


def test_a_place_where_the_model_would_not_start_is_an_error() -> None:
    refused = request("chat", T4, RTX_4090, refusals={T4: "the model does not fit"})
    code, sentence, _ = only_finding([node()], refused)
    assert (code, sentence) == ("does-not-fit", "chat: the model does not fit")
    assert not diagnose([node(gpu=RTX_4090)], [refused]).findings


@pytest.mark.parametrize(
    ("value", "label", "meant"),
    [
        ("T4", "T4", True),
        ("T4", "L4", False),
        ("T4", None, False),
        ("!T4", "L4", True),
        ("!T4", "T4", False),
        ("in(T4, L4)", "L4", True),
        ("in(T4,L4)", "A10G", False),
        ("!in(T4,L4)", "A10G", True),
        ("!in(T4,L4)", "T4", False),
    ],
)
def test_selectors_are_read_as_ray_reads_them(value: str, label: str | None, meant: bool) -> None:
    labels = {ACCELERATOR_LABEL: label} if label else {}
    assert matches(labels, {ACCELERATOR_LABEL: value}) is meant


def test_a_selector_in_words() -> None:
    assert in_words({ACCELERATOR_LABEL: "in(T4,L4)"}) == "T4 or L4"
    assert in_words({ACCELERATOR_LABEL: "!T4", "zone": "a"}) == "anything but T4 with zone=a"
    assert in_words({"zone": "!in(a,b)"}) == "no zone=a or b"
    assert in_words({}) == "any node"


@given(
    st.lists(st.sampled_from([T4, RTX_4090, None]), max_size=6),
    st.lists(st.tuples(st.sampled_from([T4, RTX_4090]), st.integers(1, 3)), min_size=1, max_size=3),
)
def test_every_replica_has_a_place_or_a_reason_and_no_gpu_is_given_twice(
    gpus: list[str | None], asked: list[tuple[str, int]]
) -> None:
    nodes = [node(f"n{number}", gpu) for number, gpu in enumerate(gpus)]
    requests = [request(f"t{i}", gpu, target=n, minimum=n) for i, (gpu, n) in enumerate(asked)]
    diagnosis = diagnose(nodes, requests)
    used = [place.node for place in diagnosis.places]
    assert len(used) == len(set(used))
    for each in requests:
        placed = sum(place.tier == each.name for place in diagnosis.places)
        explained = [finding for finding in diagnosis.findings if finding.tier == each.name]
        assert (placed == each.target) is not bool(explained)
