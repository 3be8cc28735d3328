"""The dashboard of each replica's engine and its machine."""

from deploy.monitoring.board import SELECTED, Board, Panel, Query, Row, Source

S, RATE = SELECTED, "[$__rate_interval]"
REPLICA = "{{tier}} {{replica}}"


def engine_board() -> Board:
    """Batch, KV cache, GPU, machine."""
    return Board(
        "tierserve-engine",
        "tierserve: engine",
        "What each replica's engine and its GPU do.",
        (Row("Batch", _batch()), Row("KV cache", _kv_cache()), Row("Machine", _machine())),
    )


def _batch() -> tuple[Panel, ...]:
    return (
        Panel(
            "Sequences in the engine",
            "short",
            (
                Query(f"vllm:num_requests_running{{{S}}}", f"{REPLICA} running"),
                Query(f"vllm:num_requests_waiting{{{S}}}", f"{REPLICA} waiting"),
            ),
            "The gate lets in what fits, so hardly any should wait inside.",
        ),
        Panel(
            "Tokens a step",
            "short",
            (
                Query(
                    f"rate(vllm:iteration_tokens_total_sum{{{S}}}{RATE}) "
                    f"/ rate(vllm:iteration_tokens_total_count{{{S}}}{RATE})",
                    REPLICA,
                ),
            ),
            "Prompt and generated tokens together; no data while nothing runs.",
        ),
        Panel(
            "Time a slot is held",
            "s",
            (Query(f"tierserve_service_seconds{{{S}}}", REPLICA),),
            "A request's mean, from which the gate tells its waits; before the first one derived.",
        ),
    )


def _kv_cache() -> tuple[Panel, ...]:
    return (
        Panel(
            "KV cache in use",
            "percentunit",
            (Query(f"vllm:kv_cache_usage_perc{{{S}}}", REPLICA),),
            "At 100 % vLLM preempts sequences.",
            limits=(0.9, 0.98),
        ),
        Panel(
            "Preemptions in ten minutes",
            "short",
            (Query(f"tier:vllm_preemptions:increase10m{{{S}}}", "{{tier}}"),),
            "Sequences that lost their KV blocks and are computed again.",
        ),
        Panel(
            "Prompt tokens found in the prefix cache",
            "percentunit",
            (Query(f"tierserve_prefix_cache_hit_rate{{{S}}}", REPLICA),),
            "Since the replica's start.",
        ),
    )


def _machine() -> tuple[Panel, ...]:
    return (
        Panel(
            "GPU in use",
            "percent",
            (Query("ray_node_gpus_utilization", "{{ip}} {{GpuIndex}}", Source.GPU),),
            "By Ray, of each GPU; no data on a machine without one.",
            width=6,
        ),
        Panel(
            "GPU memory in use",
            "percentunit",
            (
                Query(
                    "ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)",
                    "{{ip}} {{GpuIndex}}",
                    Source.GPU,
                ),
            ),
            "vLLM takes its share at the start and keeps it; see the KV cache.",
            width=6,
        ),
        Panel(
            "CPU in use",
            "percent",
            (Query("ray_node_cpu_utilization", "{{ip}}", Source.RAY),),
            "Of a node. Near 100 % streams stutter, whatever the GPU does.",
            width=6,
        ),
        Panel(
            "Memory in use",
            "percentunit",
            (Query("ray_node_mem_used / ray_node_mem_total", "{{ip}}", Source.RAY),),
            "Of a node. Ray kills workers above its threshold (95 %).",
            width=6,
            limits=(0.85, 0.95),
        ),
    )
