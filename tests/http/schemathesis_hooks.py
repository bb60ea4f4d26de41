"""What schemathesis must be told to test this interface; its command line imports this module."""

import json

import schemathesis

from tests.site import KEY


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
