"""What HAProxy says of its servers, in its own words."""

from loadtest.studies.continuity.faults import up_in
from serve_app.core.tiers import Tier

STATISTICS = """# pxname,svname,scur,status,weight,act,bck,
http_frontend,FRONTEND,1,OPEN,,,,
http-chat,replica-1,0,UP,1,1,0,
http-chat,replica-2,0,UP 1/2,1,1,0,
http-chat,replica-3,0,DOWN,1,1,0,
http-chat,fallback,0,UP,1,0,1,
http-chat,BACKEND,0,UP,2,2,1,
http-reasoning,replica-4,0,UP,1,1,0,

"""


def test_servers_that_get_requests_are_counted_and_the_fallback_is_none() -> None:
    assert up_in(STATISTICS, Tier.CHAT) == 2
    assert up_in(STATISTICS, Tier.REASONING) == 1
    assert up_in("", Tier.CHAT) == 0
