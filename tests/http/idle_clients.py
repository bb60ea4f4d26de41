"""Opens many idle connections in a process of its own, and holds them until its input ends.

    python idle_clients.py PORT COUNT

Prints how many it holds; a process that tests start has a limit of open files of its own.
"""

import resource
import socket
import sys

# A source address has about 28,000 ports for one server; several leave room for other tests.
PER_ADDRESS = 2_500


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = []
    for number in range(count):
        source = f"127.0.0.{2 + number // PER_ADDRESS}"
        connections.append(
            socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
        )
    print(len(connections), flush=True)  # noqa: T201 - the test waits for this line.
    sys.stdin.read()


if __name__ == "__main__":
    main()
