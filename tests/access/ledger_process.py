"""A ledger in a process of its own, which a test kills: reads pickled reports, writes answers."""

import pickle
import struct
import sys

from serve_app.access.database import open_database
from serve_app.access.ledger import Ledger


def main() -> None:
    ledger = Ledger(open_database(sys.argv[1]))
    while head := sys.stdin.buffer.read(4):
        (length,) = struct.unpack("!I", head)
        answer = pickle.dumps(ledger.report(pickle.loads(sys.stdin.buffer.read(length))))
        sys.stdout.buffer.write(struct.pack("!I", len(answer)) + answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
