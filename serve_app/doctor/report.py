"""`tierserve doctor`: what this cluster, or machine, can run of what is requested."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.config.accelerator_costs import most_token_ms
from serve_app.core.placement.diagnosis import Finding, Placement, Severity, diagnose
from serve_app.core.placement.labels import accelerator_types
from serve_app.core.placement.nodes import NodeView
from serve_app.core.placement.token_cost import AcceleratorOrder, TokenCost, order_accelerators
from serve_app.doctor.cluster_view import ClusterView, view_cluster, view_machine
from serve_app.doctor.configured_deployments import (
    ConfiguredDeployment,
    FitOnGpu,
    configured_deployments,
    fit_on_gpus,
)
from serve_app.doctor.findings import machine_findings, service_findings
from serve_app.engine.models.fit_check import model_files
from serve_app.engine.models.model_dir import ModelNotFoundError
from serve_app.engine.models.model_size import ModelFiles
from serve_app.local.profiles import find_profile, load_profile
from serve_app.local.serve_api import ServeApi, ServeApiError
from serve_app.local.services import (
    LocalService,
    reported_tiers,
    running_services,
)
from serve_app.nvidia import DriverGpu

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
# Serve's states of an application that is not up yet.
STARTING = ("NOT_STARTED", "DEPLOYING")
ADDRESS_VARIABLES = ("RAY_DASHBOARD_ADDRESS", "RAY_API_SERVER_ADDRESS")


@dataclass(frozen=True, slots=True)
class TierReport:
    """A deployment, where its replicas to come will go, and each kind of GPU for it."""

    deployment: ConfiguredDeployment
    places: list[Placement]
    gpus: Mapping[str | None, FitOnGpu]

    @property
    def requested_order(self) -> list[str]:
        """The types that the tier requests, first choice first, of those that are here."""
        requested = accelerator_types(self.deployment.request.selectors)
        return [name for name in requested if name in self._costs]

    @property
    def cheapest_order(self) -> AcceleratorOrder | None:
        """The same types, the cheapest token first; None where there is no choice."""
        costs = [self._costs[name] for name in self.requested_order]
        if len(costs) < 2 or self.deployment.settings is None:
            return None
        return order_accelerators(costs, most_token_ms=most_token_ms(self.deployment.settings))

    @property
    def _costs(self) -> dict[str, TokenCost]:
        return {
            gpu.token_cost.accelerator_type: gpu.token_cost
            for gpu in self.gpus.values()
            if gpu.token_cost is not None
        }

    def as_json(self) -> dict[str, Any]:
        request, order = self.deployment.request, self.cheapest_order
        return {
            "name": request.name,
            "model": self.deployment.tier.model if self.deployment.tier else None,
            "replicas_wanted": request.target,
            "replicas_placed": request.placed,
            "gpus": request.gpus,
            "cpus": request.cpus,
            "selectors": [dict(selector) for selector in request.selectors],
            "will_get": [dataclasses.asdict(place) for place in self.places],
            "cheapest_order": None if order is None else dataclasses.asdict(order),
            "cards": {
                name or "unlabelled": dataclasses.asdict(gpu) for name, gpu in self.gpus.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found. `profile` is the requested one; None: what is deployed. `service` is
    the running `serve` that was looked at, and `reported` what it reports of its tiers."""

    view: ClusterView
    profile: str | None
    tiers: list[TierReport]
    findings: list[Finding]
    service: LocalService | None = None
    reported: list[dict[str, Any]] | None = None

    @property
    def status(self) -> str:
        """`ok`, or `problems` where something that is requested cannot run."""
        bad = any(finding.severity is Severity.ERROR for finding in self.findings)
        return "problems" if bad else "ok"

    def as_json(self) -> dict[str, Any]:
        """Keys are stable; new ones may come."""
        view = self.view
        return {
            "status": self.status,
            "cluster": view.source or None,
            "profile": self.profile,
            "service": _service_json(self),
            "nodes": [_node_json(node, view.gpus.get(node.name, [])) for node in view.nodes],
            "tiers": [tier.as_json() for tier in self.tiers],
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def diagnose_cluster(
    profile: str | None = None,
    address: str | None = None,
    token: str | None = None,
    *,
    port: int | None = None,
) -> Report:
    """Look at the cluster of `address` (or of the environment's variables); else at the service
    that runs here (of HTTP port `port`, where several do); else at this machine. And at `profile`,
    or without one at what is deployed, or else at the profile that fits.

    Raises ServeApiError where a cluster that was named does not answer, and ValueError for a
    profile, a port or a setting that is none.
    """
    service = _running_service(address, port)
    view = _look(address, token or _token()) if service is None else _look_at(service)
    if profile is None and view.applications:
        name, applications, placed, targets = None, view.applications, view.placed, view.targets
    else:
        name = profile or _profile_for(view)
        applications, placed, targets = load_profile(name)["applications"], {}, {}
    deployments = list(configured_deployments(applications, placed=placed, targets=targets))
    nodes = view.nodes if name is None else [_without(node, deployments) for node in view.nodes]
    findings = [*_failed(view)] if view.is_cluster else machine_findings(view, deployments)
    files = _read_models(deployments, findings)
    gpus = {each.request.name: _gpus(each, files, nodes, view) for each in deployments}
    requests = [
        dataclasses.replace(each.request, refusals=_refusals(gpus[each.request.name]))
        for each in deployments
    ]
    diagnosis = diagnose(nodes, requests)
    tiers = [
        TierReport(
            each,
            [place for place in diagnosis.places if place.tier == each.request.name],
            gpus[each.request.name],
        )
        for each in deployments
    ]
    findings += diagnosis.findings
    findings += [finding for tier in tiers if (finding := _dearer_first(tier)) is not None]
    if service is None:
        return Report(view, name, tiers, findings)
    reported = reported_tiers(service)
    starting = reported is None and _is_starting(service)
    findings += service_findings(service, reported, starting=starting)
    return Report(view, name, tiers, findings, service, reported)


def _running_service(address: str | None, port: int | None) -> LocalService | None:
    """The `serve` to look at; None where another cluster is named, or none runs."""
    if address is not None and port is not None:
        raise ValueError("Give --address or --port, not both: each names what to look at.")
    if port is None and _named(address) is not None:
        return None
    services = running_services()
    if port is not None:
        services = [service for service in services if service.port == port]
        if not services:
            raise ValueError(
                f"No `serve` of this user has port {port}: leave --port out to look at this "
                "machine, or name a cluster with --address."
            )
    if len(services) > 1:
        ports = ", ".join(str(service.port) for service in services)
        raise ValueError(f"Services run here at the ports {ports}: choose one with --port.")
    return services[0] if services else None


def _is_starting(service: LocalService) -> bool:
    apps = ServeApi(service.dashboard_address, service.token()).status()
    return not apps or any(app.status in STARTING for app in apps.values())


def _look_at(service: LocalService) -> ClusterView:
    api = ServeApi(service.dashboard_address, service.token())
    if not api.answers():
        raise ServeApiError(
            f"The `serve` of port {service.port} (process {service.pid}) runs, and its Ray does "
            "not answer: it starts or stops just now, so try again in some seconds."
        )
    return view_cluster(api)


def _named(address: str | None) -> str | None:
    return address or next((os.environ[n] for n in ADDRESS_VARIABLES if os.environ.get(n)), None)


def _look(address: str | None, token: str | None) -> ClusterView:
    named = _named(address)
    api = ServeApi((named or DEFAULT_ADDRESS).rstrip("/"), token)
    # Only a cluster that nobody named may be missing.
    if named is None and not api.answers():
        return view_machine()
    return view_cluster(api)


def _token() -> str | None:
    """As Ray finds it: the variable, the file it names, the file in the home folder."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return file.read_text().strip() if file.is_file() else None


def _profile_for(view: ClusterView) -> str:
    known = [gpu for gpus in view.gpus.values() for gpu in gpus]
    labelled = [
        DriverGpu("", "", node.accelerator_type)
        for node in view.nodes
        for _ in range(int(node.gpus))
        if node.accelerator_type
    ]
    return find_profile(known or labelled)


def _without(node: NodeView, deployments: list[ConfiguredDeployment]) -> NodeView:
    """The node as it would be for this profile: what it deploys anew holds nothing yet."""
    names = {each.request.name for each in deployments}
    others = {who: gpus for who, gpus in node.gpu_holders.items() if who not in names}
    return dataclasses.replace(
        node,
        cpus_free=node.cpus,
        gpus_free=node.gpus - sum(others.values()),
        gpu_holders=others,
    )


def _read_models(
    deployments: list[ConfiguredDeployment], findings: list[Finding]
) -> dict[str, ModelFiles]:
    """The sizes of each model that goes on a GPU, once; a finding for each that is not found."""
    read: dict[str, ModelFiles] = {}
    names = [each.tier.model for each in deployments if each.tier and each.request.gpus]
    for name in dict.fromkeys(names):
        try:
            read[name] = model_files(name)
        except ModelNotFoundError as error:
            sentence = f"Whether {name} fits was not checked. {error}"
            findings.append(Finding(Severity.WARNING, "model-not-found", None, sentence))
    return read


def _gpus(
    deployment: ConfiguredDeployment,
    files: Mapping[str, ModelFiles],
    nodes: list[NodeView],
    view: ClusterView,
) -> dict[str | None, FitOnGpu]:
    if deployment.tier is None or not deployment.request.gpus or deployment.tier.model not in files:
        return {}
    return fit_on_gpus(deployment, files[deployment.tier.model], nodes, view.gpus)


def _refusals(gpus: Mapping[str | None, FitOnGpu]) -> dict[str | None, str]:
    return {name: gpu.reason for name, gpu in gpus.items() if gpu.fits is False}


def _dearer_first(tier: TierReport) -> Finding | None:
    """Where the tier requests a type before another one whose token costs less. That may be
    intended, to keep the cheaper one for the other tier."""
    order = tier.cheapest_order
    if order is None or list(order.types) == tier.requested_order:
        return None
    name, first = tier.deployment.request.name, tier.requested_order[0]
    return Finding(
        Severity.INFO,
        "dearer-first",
        name,
        f"{name} requests {first} first; by prices and derived speeds: {order.reason}.",
        f"let label_selector request {order.types[0]} and fallback_strategy for "
        f"{', then '.join(order.types[1:])}, or give your own prices in gpu_prices_usd_per_hour",
    )


def _failed(view: ClusterView) -> Iterator[Finding]:
    for name, message in view.failures.items():
        yield Finding(
            Severity.ERROR,
            "failed-to-start",
            name,
            f"{name} does not start: {message}",
            "fix what the message says and deploy again",
        )


def _service_json(report: Report) -> dict[str, Any] | None:
    if report.service is None:
        return None
    return {
        "base_url": report.service.base_url,
        "pid": report.service.pid,
        "answers": report.reported is not None,
        "tiers": report.reported or [],
    }


def _node_json(node: NodeView, gpus: list[DriverGpu]) -> dict[str, Any]:
    found = dataclasses.asdict(node) | {"accelerator_type": node.accelerator_type}
    # JSON has no infinity; a node without that resource has no limit of it.
    for name in ("memory_bytes", "memory_free_bytes"):
        found[name] = None if found[name] == float("inf") else found[name]
    return found | {"cards": [dataclasses.asdict(gpu) for gpu in gpus]}
