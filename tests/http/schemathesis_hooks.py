"""What schemathesis must be told to test this interface; its command line imports this module."""

import base64
import json

import schemathesis

from tests.site import KEY

PIXEL_PARAMETERS = ("data", "ip_policy", "cookie_policy")


@schemathesis.serializer("text/plain")
def as_json(_context, value):
    """Send what the schema says as JSON: browsers' SDKs name it text/plain."""
    return json.dumps(value).encode()


@schemathesis.hook
def map_path_parameters(_context, path_parameters):
    """Ask for the settings of a project that exists in about half of the cases."""
    if path_parameters and len(str(path_parameters.get("key"))) % 2:
        path_parameters["key"] = KEY
    return path_parameters


@schemathesis.hook
def map_query(context, query):
    """Make an event of a pixel's data, and leave out what would be fields of one in its place."""
    if query and "/pixel/" in context.operation.path:
        query = {name: value for name, value in query.items() if name in PIXEL_PARAMETERS}
        if "data" in query:
            event = json.dumps({"event": str(query["data"])}).encode()
            query["data"] = base64.urlsafe_b64encode(event).decode()
    return query
