"""Real reverse proxies as child processes, with the configurations that the documentation shows.

Only addresses, and what a proxy needs to run beside others without rights, differ from the text.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.needs import skip_or_fail
from tests.server_process import REPOSITORY

PAGE = REPOSITORY / "docs" / "configuration.md"
UPSTREAM = "127.0.0.1:8080"
"""Where segsrv is in the documented configurations."""
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
NAMES = ("nginx", "haproxy", "caddy")


def documented(name: str) -> str:
    """Return the configuration of *name* as the documentation has it."""
    (text,) = re.findall(
        rf"^```{name}\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return text


def documented_line(name: str) -> str:
    """Return the line that sets X-Real-IP, from the documentation's table."""
    (line,) = re.findall(
        rf"^\| {name} \| `([^`]*)`", PAGE.read_text("utf-8"), re.IGNORECASE | re.MULTILINE
    )
    return line


def replaced(text: str, old: str, new: str) -> str:
    """Replace the one *old* of *text*; the documentation may not change it unnoticed."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times in\n{text}"
    return text.replace(old, new)


@contextlib.contextmanager
def started_proxy(name: str, text: str, folder: Path, upstream: tuple[str, int]):
    """Run the proxy *name* with the configuration *text* before *upstream*; yield its address."""
    path = os.environ["PATH"] + ":/usr/sbin"
    program = shutil.which(name, path=path)
    if program is None:
        skip_or_fail(f"{name} is not installed: run tests/http/install_proxies.sh")
    folder.mkdir()
    address = ("127.0.0.1", _free_port())
    listen = "{}:{}".format(*address)
    text = replaced(text, UPSTREAM, "{}:{}".format(*upstream))
    config = folder / "config"
    if name == "nginx":
        text = _NGINX.format(folder=folder, server=replaced(text, "listen 80", f"listen {listen}"))
        if os.geteuid() == 0:
            # Its workers would become another user, who may not look into the test's folder.
            text = "user root;\n" + text
        command = [program, "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(config)]
    elif name == "haproxy":
        text = replaced(text, "bind :80", f"bind {listen}")
        command = [program, "-db", "-f", str(config)]
    else:
        # With a name it would ask for a certificate.
        text = _CADDY + replaced(text, "events.example.com", f"http://{listen}")
        command = [program, "run", "--adapter", "caddyfile", "--config", str(config)]
    config.write_text(text)
    environ = {"PATH": path, "HOME": str(folder)}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait_for(address, process, folder)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_NGINX = """\
daemon off;
pid {folder}/pid;
events {{}}
http {{
access_log off;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
scgi_temp_path {folder}/scgi;
uwsgi_temp_path {folder}/uwsgi;
{server}}}
"""
_CADDY = "{\nadmin off\ndefault_bind 127.0.0.1\n}\n"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _wait_for(address: tuple[str, int], process: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        ended = process.poll() is not None
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
            return
        if ended or time.monotonic() > deadline:
            said = (folder / "output").read_text(errors="replace")[-4_000:]
            raise AssertionError(f"the proxy does not listen, exit status {process.poll()}\n{said}")
        time.sleep(0.02)
