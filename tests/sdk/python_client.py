"""Send the calls of a JSON file with a Python SDK: URL PREFIX WRITE_KEY CALLS_JSON.

CLIENT_MODULE in the environment is the module that has its `Client`, which is used alike in
Segment's SDK and in those made from it. With GZIP=1 it compresses its requests.
"""

import importlib
import json
import os
import sys
from pathlib import Path

SDK_NAMES = {
    "anonymousId": "anonymous_id",
    "userId": "user_id",
    "groupId": "group_id",
    "previousId": "previous_id",
}


def main(url: str, prefix: str, write_key: str, calls_path: str) -> None:
    failures: list[Exception] = []
    module = importlib.import_module(os.environ["CLIENT_MODULE"])
    client = module.Client(
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
