"""HTTP: a request's way through a replica, in the order in which it meets the files, and the web
application in front of all replicas.

    client
      │   asgi               CORS; error responses; headers of a hop
      ▼
    edge                     every request to a replica; its numbered steps are the map of the rest
      │   request_context    what is known of the request, frozen
      │   routes             what is served; everything else is refused
      │   request_body       read and parsed within bounds, refused unread, given its rules
      │   rules              defaults, limits, refusals, by
      │     field_rules, foreign_fields, conversation, structures, token_budget
      │   answer_cache       a deterministic request that was answered before
      ▼
    gate                     queue, slots, Retry-After reservations; asks
      │     gate_admission        how long one would wait, or when it may retry
      │     engine_room, demand   whether the engine has capacity; how fast it is
      │   forwarding         to a replica that has capacity, by
      │     lending            if it is the other tier's
      ▼
    engine_run               the call of vLLM's application; disconnects, stalls, drains
      │
      ▼
    response                 transforms chosen once, by
      │     response_metadata, engine_errors
      ▼
    request_record           the outcome: one count and one log line

Beside it: `direct_routes` (models, versions, the tokenizer). Before it, at `/`: `web_app` with
`gateway` (the unified /v1), `status` (tiers, metrics, models) and `openapi`, `openapi_bodies`.
"""
