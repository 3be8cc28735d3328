"""One replica of a tier from start to end: vLLM's application behind the edge, in one process."""

import asyncio
import json
import logging
import logging.config
import os
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY
from ray import serve
from starlette.types import ASGIApp

from serve_app.api.asgi import with_cors
from serve_app.api.forwarding import Forwarder
from serve_app.api.tracing import make_tracer
from serve_app.config.accelerator_costs import times_the_preferred
from serve_app.config.tier import TierArgs, starting_settings, tier_settings
from serve_app.core.placement.hardware import hardware_for, model_shape
from serve_app.serving.access_start import start_access
from serve_app.serving.cluster_secret import cluster_secret
from serve_app.serving.engine_start import start_engine
from serve_app.serving.lenders import Lenders, answer_form, lending_terms
from serve_app.serving.replica_placement import ReplicaPlacement
from serve_app.serving.running_tier import RunningTier
from serve_app.serving.serve_logs import kept_serve_logs
from serve_app.serving.shutdown import until_draining
from serve_app.serving.start_phases import StartPhases
from serve_app.serving.tier_limits import exchange_limits
from serve_app.serving.topology import Peers
from serve_app.telemetry import logging_config, make_tier_metrics, write_logging_config

if TYPE_CHECKING:
    from serve_app.api.request_spans import Tracer

log = logging.getLogger(__name__)

ENGINE_CHECK_PERIOD_S = 0.5
# Streams get their last event, or the word that they go on elsewhere, before the process ends.
LAST_WORDS_S = 0.5


class TierReplica:
    """Plain class; `serving/app.py` makes a Serve deployment of it."""

    def __init__(self, args: TierArgs) -> None:
        self._args = args
        self._placement = ReplicaPlacement.of_this_process()
        self._metrics = make_tier_metrics(REGISTRY)
        self._started: RunningTier | None = None
        self._ready = False
        self._configured = False
        self._background: list[asyncio.Task[None]] = []
        with kept_serve_logs():
            _configure_logs(args)
        self._phases = StartPhases(self._metrics.startup_s)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Start the engine and build the application; Serve calls this once at start."""
        placed_on = hardware_for(self._placement.accelerator_type)
        tracer = _make_tracer(self._args)
        with kept_serve_logs():
            engine, hardware = await start_engine(
                self._args,
                placed_on,
                self._phases.timed,
                tracer.url if tracer is not None else None,
            )
        if engine.compile_s is not None:
            self._phases.record("compile", engine.compile_s)
        access = await start_access(
            self._args.access,
            self._args.tier,
            self._args.model,
            lambda reason: self._metrics.keys_refused.labels(reason=reason).inc(),
        )
        lenders, peers = Lenders(self._args.tier), Peers()
        tier = RunningTier.build(
            self._args,
            hardware,
            engine,
            starting_settings(self._args.tier, engine.max_model_len),
            self._metrics,
            Forwarder(
                self._args.tier,
                peers,
                lenders,
                await asyncio.to_thread(cluster_secret),
                serve.get_replica_context().replica_tag,
                peers.url_of,
            ),
            access,
        )
        lenders.form = answer_form(tier)
        tier.edge.tracer = tracer
        reports = tier.find_prefixes(peers.by_name)
        self._started = tier
        self._background = [
            asyncio.create_task(reports.run()),
            asyncio.create_task(_exit_when_engine_dies(tier)),
            asyncio.create_task(_end_streams_after_drain(tier)),
            asyncio.create_task(exchange_limits(tier)),
            *([access.reporting] if access.reporting else []),
        ]
        return with_cors(reports.behind(tier.edge), self._args.cors_origins)

    def reconfigure(self, user_config: Mapping[str, Any] | None) -> None:
        """Apply live settings as a whole. Invalid ones stop a start, but never a running replica:
        it keeps the settings it has and says so in its report."""
        try:
            limits = self._tier.apply(tier_settings(self._args.tier, user_config or {}))
        except ValueError as error:
            if not self._ready:
                raise
            self._tier.settings_error = str(error)
            self._metrics.settings_refused.inc()
            log.error("settings refused", extra={"phase": "reconfigure", "error": str(error)})
            return
        self._configured = True
        log.info("settings applied", extra={"phase": "reconfigure", "limits": limits.reason})

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        await self._tier.engine.check()
        if not self._ready:
            if not self._configured:  # Serve calls `reconfigure` only where there is a user_config
                self.reconfigure(None)
            self._ready = True
            self._phases.end()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy sees of this replica."""
        return {
            **self._tier.autoscaling_stats(),
            **self._placement.autoscaling_stats(self._args.preferred_accelerator),
            "times_token_cost": self._times_token_cost(),
            "law_start_s": self._phases.total_s,
        }

    async def report(self) -> dict[str, Any]:
        """What this replica is and does now, for `/api/tiers` and `/readyz`."""
        return {
            "replica": serve.get_replica_context().replica_tag,
            "pid": os.getpid(),
            "ready": self._ready and not self._tier.engine.dead,
            "engine": self._tier.engine.name,
            "speculation": self._speculation(),
            "start_phases_s": self._phases.report(),
            **self._placement.report(),
            "times_token_cost": round(self._times_token_cost(), 2),
            **self._tier.report(),
        }

    async def lending_terms(self) -> dict[str, Any] | None:
        """What the other tier's replicas need to know to borrow slots here."""
        return lending_terms(self._tier) if self._ready else None

    async def request_schemas(self) -> bytes:
        """The JSON schemas of request bodies, packed: Ray keeps large answers on their node."""
        return zlib.compress(json.dumps(self._tier.engine.request_schemas).encode())

    async def metrics_text(self) -> tuple[str, str]:
        """This replica's name, and its metrics in Prometheus' text format."""
        return serve.get_replica_context().replica_tag, self._tier.metrics_text()

    def _speculation(self) -> dict[str, Any]:
        """The setting, what came of it here, and the tokens since the start."""
        engine = self._tier.engine
        return {
            "setting": self._args.engine.speculation,
            "method": engine.speculation,
            "drafted_tokens": engine.load.drafted_tokens,
            "accepted_tokens": engine.load.accepted_tokens,
        }

    def _times_token_cost(self) -> float:
        """Of a token here, as many times its cost on the GPU that the tier prefers."""
        tier = self._tier
        return times_the_preferred(
            self._placement.accelerator_type,
            model_shape(tier.engine.hf_config),
            self._args,
            tier.edge.settings,
        )

    async def __del__(self) -> None:
        """Serve awaits it when no client is connected any more, and then ends the process."""
        started = self._started
        try:
            if started is not None and (running := await started.end_kept_streams()):
                log.info("streams without a client", extra={"phase": "drain", "streams": running})
        finally:
            for task in self._background:
                task.cancel()
            if started is not None:
                if (holder := started.access.holder) is not None:
                    await holder.report_last()
                started.engine.shutdown()

    @property
    def _tier(self) -> RunningTier:
        if self._started is None:
            raise RuntimeError("the engine of this replica has not started")
        return self._started


async def _exit_when_engine_dies(tier: RunningTier) -> None:
    """A refused connection sends the client to another replica at once; a replica that only turns
    unhealthy would answer 500 until Serve has noticed."""
    while not tier.engine.dead:  # noqa: ASYNC110 - vLLM offers a flag, no event
        await asyncio.sleep(ENGINE_CHECK_PERIOD_S)
    ended = tier.engine_died()
    log.critical(
        "the engine died; this replica ends and Serve starts another one",
        extra={"ended_requests": ended},
    )
    await asyncio.sleep(LAST_WORDS_S)
    await tier.edge.streams.moves.over()
    os._exit(1)


async def _end_streams_after_drain(tier: RunningTier) -> None:
    """When Serve stops this replica, hand over what can go on elsewhere, and let answers end for as
    long as the longest one needs."""
    await until_draining()
    limit = tier.drain_limit()
    log.info("draining", extra={"phase": "drain", "limit_s": limit.seconds, "why": limit.reason})
    ended = await tier.drain(limit.seconds)
    log.warning("drain time is over", extra={"phase": "drain", "ended_requests": ended})


def _make_tracer(args: TierArgs) -> "Tracer | None":
    replica = serve.get_replica_context().replica_tag
    resource = {"service.instance.id": replica, "tierserve.tier": args.tier.value}
    return make_tracer(args.otlp_endpoint, os.environ, **resource)


def _configure_logs(args: TierArgs) -> None:
    """JSON lines on stdout, from this process and from the engine's."""
    replica = serve.get_replica_context().replica_tag
    config = logging_config(tier=args.tier.value, replica=replica)
    logging.config.dictConfig(config)
    # vLLM configures its processes itself, from a file.
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = write_logging_config(config)
