"""Whether a server keeps its word: who comes back when it was told to, is it served?"""

from collections.abc import Sequence
from typing import Any

from loadtest.load.lag import spread
from loadtest.load.record import Record


def honesty(records: Sequence[Record]) -> dict[str, Any]:
    """Of refused requests: what they were told, and what their first coming back brought.

    Without retries nobody comes back, and the server's word is not tested: the share is None.
    """
    refused = [record for record in records if record.refusals]
    told = [r.retry_after_s for record in refused for r in record.refusals]
    came = [record for record in refused if _came_back(record)]
    ended = [record for record in came if len(record.refusals) > 1 or _settled(record)]
    kept = [record for record in ended if len(record.refusals) == 1 and record.served]
    again = [record for record in ended if len(record.refusals) > 1]
    return {
        "refused_requests": len(refused),
        "without_retry_after": sum(wait_s is None for wait_s in told),
        "told_s": spread(wait_s for wait_s in told if wait_s is not None),
        "came_back": len(came),
        "served_at_first_return": len(kept),
        "refused_again": len(again),
        "failed_at_return": len(ended) - len(kept) - len(again),
        "kept_share": round(len(kept) / len(ended), 4) if ended else None,
    }


def _came_back(record: Record) -> bool:
    return record.sent_s is not None and record.sent_s > record.refusals[0].sent_s


def _settled(record: Record) -> bool:
    return record.outcome != "unfinished"
