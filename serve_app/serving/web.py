"""The web application's replica: asks Serve and the tiers' replicas how they are."""

import asyncio
import json
import logging
import logging.config
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.schema import ServeStatus
from starlette.types import ASGIApp

from serve_app.api.asgi import with_cors
from serve_app.api.gateway import Gateway
from serve_app.api.shared_answers import SharedAnswers
from serve_app.api.status import DeploymentState, Kept, Report
from serve_app.api.tracing import make_tracer
from serve_app.api.usage import UsagePages
from serve_app.api.web_app import make_web_app
from serve_app.autoscaling.decision_store import read_record
from serve_app.config.tier import WebArgs
from serve_app.core.access.access_key import AccessKey
from serve_app.core.scaling.decision_record import ScalingRecord
from serve_app.core.tiers import Tier
from serve_app.serving.access_start import StartedAccess, start_access
from serve_app.serving.cluster_secret import cluster_secret
from serve_app.serving.lease_holder import LeaseHolder
from serve_app.serving.ledger_actor import LedgerLink
from serve_app.serving.replica_answers import Broadcast, ReplicaAnswers
from serve_app.serving.serve_logs import kept_serve_logs
from serve_app.serving.shutdown import until_draining
from serve_app.serving.status_listener import StatusListener
from serve_app.serving.topology import http_port
from serve_app.telemetry import logging_config

if TYPE_CHECKING:
    from serve_app.access.usage import UsageRow


class Web:
    """Plain class; `serving/app.py` makes a Serve deployment of it."""

    def __init__(self, args: WebArgs) -> None:
        with kept_serve_logs():
            logging.config.dictConfig(
                logging_config(replica=serve.get_replica_context().replica_tag)
            )
        self._args = args
        self._access: StartedAccess | None = None
        self._gateway: Gateway | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        base_url = f"http://127.0.0.1:{await http_port()}"

        async def own_proxy() -> str:
            return base_url

        args = self._args
        gateway = self._gateway = Gateway(
            own_proxy,
            args.tiers,
            args.max_body_bytes,
            args.heartbeat_s,
            args.body_timeout_s,
            args.replay,
            await asyncio.to_thread(cluster_secret),
        )
        source = ServeTiers(args.report_timeout_s, args.report_keep_s)
        self._access = await start_access(args.access)
        tracer = make_tracer(args.otlp_endpoint, os.environ)
        app = make_web_app(
            args.tiers,
            source,
            gateway,
            args.client_stall_s,
            self._access.desk,
            tracer,
            _usage_pages(args, self._access),
            until_draining,
        )
        if args.access.database is not None and args.access.status_listener is not None:
            listener = StatusListener(app.status_app(), args.access.status_listener)
            self._listening = asyncio.create_task(listener.run())
        return with_cors(app, args.cors_origins)

    async def gateway_metrics(self) -> tuple[str, str]:
        """This replica's name, and the metrics of its gateway in Prometheus' text format."""
        text = "" if self._gateway is None else self._gateway.metrics_text()
        return serve.get_replica_context().replica_tag, text

    def __del__(self) -> None:
        for task in (self._listening, self._access.reporting if self._access is not None else None):
            if task is not None:
                task.cancel()


def _usage_pages(args: WebArgs, access: StartedAccess) -> UsagePages | None:
    if access.link is None or access.holder is None:
        return None
    return UsagePages(_LedgerUsage(access.link, access.holder), args.usage, args.tiers)


@dataclass(frozen=True, slots=True)
class _LedgerUsage:
    link: LedgerLink
    holder: LeaseHolder

    async def usage(
        self, since_day: str | None, until_day: str | None, key: str | None
    ) -> Sequence["UsageRow"]:
        return await self.link.usage(since_day, until_day, key)

    def valid_keys(self) -> Sequence[AccessKey]:
        return [record.key for record in self.holder.book.snapshot.records]


@dataclass(slots=True)
class ServeTiers:
    """The tiers as Serve knows them. A replica that does not answer within `timeout_s` is believed
    to be as it was, for `keep_s` at most."""

    timeout_s: float
    keep_s: float
    _asked: dict[tuple[str, str], ReplicaAnswers] = field(
        default_factory=dict[tuple[str, str], ReplicaAnswers]
    )
    _schemas: Mapping[str, Mapping[str, Any]] | None = None
    _shared: SharedAnswers = field(default_factory=SharedAnswers)
    # Serve's last answer, which is about all tiers, and when it was asked for.
    _status: tuple[float, ServeStatus] | None = None

    async def state(self, tier: Tier, max_age_s: float = 0.0) -> DeploymentState:
        status = await self._serve_status(max_age_s)
        application = status.applications.get(tier.value)
        deployment = application.deployments.get(tier.value) if application else None
        if application is None or deployment is None:
            return DeploymentState("NOT_DEPLOYED", "", 0, None)
        replicas = {str(state): count for state, count in deployment.replica_states.items()}
        return DeploymentState(
            status=deployment.status.value,
            message=deployment.message or application.message,
            replicas_running=replicas.get("RUNNING", 0),
            # Serve's status has no target; every replica that is not stopping is desired.
            replicas_wanted=sum(replicas.values()) - replicas.get("STOPPING", 0),
        )

    async def _serve_status(self, max_age_s: float) -> ServeStatus:
        now_s = time.monotonic()
        if self._status is None or now_s - self._status[0] > max_age_s or not max_age_s:
            status = await self._shared.get("status", lambda: asyncio.to_thread(serve.status))
            self._status = now_s, status
        return self._status[1]

    async def reports(self, tier: Tier) -> Sequence[Kept[Report]]:
        return await self._ask_replicas(tier.value, "report")

    async def schemas(self) -> Mapping[str, Mapping[str, Any]]:
        # They are the vLLM release's, so one answer is for good.
        for tier in Tier if self._schemas is None else ():
            answers = await self._ask_replicas(tier.value, "request_schemas")
            if answers:
                self._schemas = json.loads(zlib.decompress(answers[0].value))
                break
        return self._schemas or {}

    async def scaling(self, tier: Tier) -> ScalingRecord | None:
        return await asyncio.to_thread(read_record, tier)

    async def metrics(self, tier: Tier) -> Mapping[str, Kept[str]]:
        reports = await self._ask_replicas(tier.value, "metrics_text")
        return {kept.value[0]: replace(kept, value=kept.value[1]) for kept in reports}

    async def gateways(self) -> Mapping[str, Kept[str]]:
        reports = await self._ask_replicas(serve.get_replica_context().app_name, "gateway_metrics")
        return {kept.value[0]: replace(kept, value=kept.value[1]) for kept in reports}

    async def _ask_replicas(self, application: str, method: str) -> list[Kept[Any]]:
        if (application, method) not in self._asked:
            put = Broadcast(application, method)
            self._asked[application, method] = ReplicaAnswers(put, self.timeout_s, self.keep_s)
        return await self._asked[application, method].ask()
