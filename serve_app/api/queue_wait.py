"""A request's wait at the gate: its client gets heartbeats, other replicas the queue's head."""

import asyncio
from dataclasses import dataclass

from serve_app.api.answer_deadline import deadline_exceeded
from serve_app.api.forwarding import Forwarder
from serve_app.api.gate import Gate
from serve_app.api.queue_entry import QueueEntry
from serve_app.api.request_context import RequestContext
from serve_app.api.request_record import RequestOutcome
from serve_app.api.response import TierResponse
from serve_app.config.admission import AdmissionConfig
from serve_app.errors import ClientDisconnectedError


@dataclass(frozen=True, slots=True)
class QueueWait:
    gate: Gate
    forwarder: Forwarder
    admission: AdmissionConfig

    async def __call__(
        self, entry: QueueEntry, context: RequestContext, response: TierResponse
    ) -> RequestOutcome | None:
        """Until the slots are granted (None), or another replica has answered it.

        (1) Wake up for the grant, a disconnect, or after a while; one with a deadline by its latest
            start, after which it would be late. Raises RequestError 504 then.
        (2) Keep the client's connection alive.
        (3) At the queue's head, offer it to other replicas, unless it has moved already.
        """
        admission, clock_s = self.admission, self.gate.clock_s
        if context.trace is not None:
            context.trace.enter("queue")
        next_heartbeat_s = clock_s() + admission.heartbeat_s
        latest_s = entry.latest_start_s
        if entry.resumed and context.deadline is not None:
            # What has begun is ended, however little is left.
            latest_s = clock_s() + context.deadline.left_s
        async with context.disconnection() as disconnected:
            while not entry.granted.done():
                look_s = min(admission.relay_after_s, admission.heartbeat_s)
                if context.deadline is not None:
                    look_s = min(look_s, max(0.0, latest_s - clock_s()))
                await asyncio.wait(  # (1)
                    {entry.granted, disconnected},
                    timeout=look_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if disconnected.done():
                    raise ClientDisconnectedError
                if entry.granted.done():
                    break
                if context.deadline is not None and clock_s() >= latest_s:
                    raise deadline_exceeded(context.deadline, "leaves no answer after the queue")
                if context.prepared.streaming and clock_s() >= next_heartbeat_s:  # (2)
                    await response.heartbeat(self.gate.ahead_of(entry))
                    next_heartbeat_s += admission.heartbeat_s
                # Each await may have let the gate grant the slots.
                may_leave = self.gate.is_head(entry) and not entry.resumed
                if entry.granted.done() or not may_leave:
                    continue
                if await self.forwarder.has_somewhere() and not entry.granted.done():  # (3)
                    with self.gate.step_aside(entry):
                        outcome = await self.forwarder.forward(context, response, disconnected)
                    if outcome is not None:
                        return outcome
        return None
