"""Goodput: which requests were as good as was promised."""

from loadtest.load.record import Record
from loadtest.load.scenario import Slo


def is_good(record: Record, slo: Slo) -> bool:
    """Served, and within each limit that is set. A request that came back after refusals is
    measured from its first attempt, as its user does. As in `vllm.benchmarks.serve`, an answer of
    one token has a TPOT of 0."""
    if not record.served:
        return False
    back_s = record.come_back_s
    measured = (
        (slo.ttft, record.ttft_s, back_s),
        (slo.ttfo, record.ttfo_s, back_s),
        (slo.e2e, record.e2e_s, back_s),
        (slo.tpot, record.tpot_s or 0.0, 0.0),
    )
    return all(
        limit_s is None or (value_s is not None and value_s + more_s <= limit_s)
        for limit_s, value_s, more_s in measured
    )


def words(slo: Slo) -> str:
    """`TTFT ≤ 2 s, TPOT ≤ 100 ms`."""
    told = [(name.upper(), limit) for name, limit in slo if limit is not None]
    return ", ".join(
        f"{name} ≤ {limit * 1e3:g} ms" if limit < 1 else f"{name} ≤ {limit:g} s"
        for name, limit in told
    )
