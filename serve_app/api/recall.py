"""A request on its way past the cache: answered from it, or recorded for it."""

from functools import partial

from prometheus_client import Counter

from serve_app.api.answer_cache import CACHE_HEADER, AnswerCache
from serve_app.api.exchange import Exchange


async def answered_from(
    cache: AnswerCache, exchange: Exchange, request_id: str, looked_for: Counter
) -> bool:
    """Whether a kept answer was sent. Otherwise this one is recorded, if it may be kept. One that
    is borrowed here carries another tier's name, and is kept there."""
    if exchange.borrower is not None:
        return False
    exchange.cache_key = cache.key(exchange.scope, exchange.endpoint, exchange.prepared)
    if exchange.cache_key is None:
        return False
    kept = cache.get(exchange.cache_key)
    result = "miss" if kept is None else "hit"
    looked_for.labels(result=result).inc()
    exchange.answer.headers.append((CACHE_HEADER, result.encode()))
    if kept is None:
        exchange.answer.record(partial(cache.keep, exchange.cache_key))
        return False
    await exchange.answer.replay(kept, request_id)
    return True
