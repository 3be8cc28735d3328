"""How far the simulation may be off, as shares of what was measured."""

from collections.abc import Mapping

THROUGHPUT, TTFT = "output_tokens_per_s", "ttft_p50_s"
BARS: Mapping[str, float] = {THROUGHPUT: 0.10, TTFT: 0.20}
