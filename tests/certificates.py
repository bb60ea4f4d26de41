"""Certificates as an operator would make them."""

import shutil
import subprocess

from tests.needs import skip_or_fail


def make_certificate(folder, name):
    """Make a self-signed certificate for 127.0.0.1; return its file and its key's."""
    if shutil.which("openssl") is None:
        skip_or_fail("this needs the openssl command")
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return cert, key
