"""What tiers on T4s need, bound by their slots or by the time per token."""

from serve_app.core.scaling.slo_capacity import RequestShape, Slo, replica_capacity
from serve_app.core.scaling.step_time import StepModel
from serve_app.core.scaling.tier_need import TierNeed

SLO = Slo(ttft_s=2.0, tpot_s=0.1)
T4 = StepModel(14.5, 0.13, 0.125)
# Long answers to short prompts use up the slots, long prompts with short answers the TPOT.
BY_SLOTS = RequestShape(prompt_tokens=100.0, new_tokens=1000.0)
BY_TPOT = RequestShape(prompt_tokens=1500.0, new_tokens=60.0)


def need(rate_rps: float, target: int = 1, shape: RequestShape = BY_SLOTS) -> TierNeed:
    """Of T4s with 125 slots; all of the rate is steady."""
    capacity = replica_capacity(T4, slots=125, shape=shape, slo=SLO)
    token_s = T4.token_s(125)
    return TierNeed((capacity,) * target, rate_rps, rate_rps, shape, SLO, token_s, target)
