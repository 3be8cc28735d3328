"""vLLM on the CPU behind a GPU that only Ray believes in."""

from loadtest.servers.random_model import make_random_qwen2
from loadtest.servers.ray_nodes import RTX_4090
from serve_app.core.placement.hardware import CPU
from serve_app.core.tiers import Tier
from tests.e2e.cluster.mixed import await_replicas, deploy, mixed_config, ready
from tests.e2e.site import Site, wait_for

VLLM_WITHIN_S = 150.0


def test_vllm_computes_on_the_cpu_and_says_where_it_runs(site: Site) -> None:
    # Reasoning has the other GPUs: Ray may count the one that a replica has just left as taken for
    # a moment, and would fall back to another type.
    deploy(site, mixed_config(reasoning=(2, 2)))
    await_replicas(site, chat=1, reasoning=2)
    engine = {"cpu_slice": "0/2"}
    deploy(site, mixed_config(reasoning=(2, 2), engine=engine, model=str(make_random_qwen2())))
    wait_for(lambda: engines(site) == ["vllm"], "vLLM has taken over", VLLM_WITHIN_S)
    (replica,) = ready(site, Tier.CHAT)
    assert replica["accelerator_type"] == RTX_4090
    assert replica["gpu_ids"] == ["0"]
    assert replica["hardware"] == CPU.name
    answer = site.post("/api/chat", {"prompt": "hello", "max_tokens": 8, "ignore_eos": True})
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 8
    (line,) = (
        text
        for file in site.cluster.log_dir.glob("worker-*.out")
        for text in file.read_text().splitlines()
        if "this vLLM computes on the CPU" in text
    )
    assert '"level": "WARNING"' in line


def engines(site: Site) -> list[str]:
    return [replica["engine"] for replica in ready(site, Tier.CHAT)]
