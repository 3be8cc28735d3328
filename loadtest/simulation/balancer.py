"""HAProxy's `balance leastconn`: the server with the fewest connections; of equals, in turn."""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from loadtest.simulation.replica import Replica

# Of the entries of the heap most are out of date before it is made anew.
STALE_ENTRIES = 8


@dataclass(slots=True)
class LeastConnections:
    """A heap of (connections, turn, replica); an entry counts while it is its replica's newest."""

    _heap: list[tuple[int, int, Replica]] = field(default_factory=list)
    _servers: dict[Replica, None] = field(default_factory=dict)
    _turn: int = 0

    def add(self, replica: Replica) -> None:
        self._servers[replica] = None
        self._put(replica)

    def remove(self, replica: Replica) -> None:
        """It gets no new connection; those that it has may end later."""
        del self._servers[replica]

    def choose(self) -> Replica:
        """The next connection's server, with that connection counted."""
        heap = self._heap
        while True:
            _, turn, replica = heap[0]
            if turn == replica.chosen and replica in self._servers:
                break
            heappop(heap)
        replica.connections += 1
        self._put(replica)
        return replica

    def end(self, replica: Replica) -> None:
        """One of its connections has ended."""
        replica.connections -= 1
        if replica in self._servers:
            self._put(replica)

    def _put(self, replica: Replica) -> None:
        self._turn += 1
        replica.chosen = self._turn
        heappush(self._heap, (replica.connections, self._turn, replica))
        if len(self._heap) > STALE_ENTRIES * (len(self._servers) + 8):
            self._heap = [(r.connections, r.chosen, r) for r in self._servers]
            heapify(self._heap)
