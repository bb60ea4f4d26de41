"""Send the calls of a JSON file with the Python SDK: URL PREFIX WRITE_KEY CALLS_JSON.

With GZIP=1 in the environment the SDK compresses its requests.
"""

import json
import os
import sys
from pathlib import Path

from segment.analytics.client import Client

SDK_NAMES = {
    "anonymousId": "anonymous_id",
    "userId": "user_id",
    "groupId": "group_id",
    "previousId": "previous_id",
}


def main(url: str, prefix: str, write_key: str, calls_path: str) -> None:
    failures: list[Exception] = []
    client = Client(
        write_key,
        host=url + prefix,
        gzip=os.environ.get("GZIP") == "1",
        on_error=lambda error, _batch: failures.append(error),
    )
    calls = json.loads(Path(calls_path).read_bytes())
    for call in calls:
        send = getattr(client, call.pop("type"))
        send(**{SDK_NAMES.get(name, name): value for name, value in call.items()})
    client.shutdown()
    if failures:
        sys.exit(f"not delivered: {failures}")
    sys.stdout.write(f"delivered {len(calls)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
