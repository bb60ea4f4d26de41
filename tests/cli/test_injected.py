"""Variables that Kubernetes and Docker set for a Service called segsrv stop no start."""

import pytest

from segsrv import Settings, SettingsError
from segsrv.settings.sources import load


@pytest.mark.parametrize("service", ["SEGSRV", "SEGSRV_METRICS", "SEGSRV_2"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_HOST", "fd00::1"),
        ("SERVICE_PORT", "8080"),
        ("SERVICE_PORT_HTTP", "8080"),
        ("SERVICE_PORT_OPS_METRICS", "9090"),
        ("PORT", "tcp://10.0.0.1:8080"),
        ("PORT", "udp://10.0.0.1:8080"),
        ("PORT", "tcp://[fd00::1]:8080"),
        ("PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("PORT_8080_TCP_PROTO", "tcp"),
        ("PORT_8080_TCP_PORT", "8080"),
        ("PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("PORT_53_UDP_ADDR", "fd00::1"),
    ],
)
def test_what_a_cluster_sets_is_no_setting(service, name, value):
    """A variable that is one of theirs by name and value changes nothing."""
    assert load({}, {f"{service}_{name}": value}) == Settings()


def test_a_port_beside_the_cluster_is_still_read():
    """The port of the pod's own specification, which comes instead of the cluster's, counts."""
    environ = {"SEGSRV_SERVICE_HOST": "10.0.0.1", "SEGSRV_PORT": "9000"}
    assert load({}, environ).port == 9000


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SEGSRV_PORT", "80x"),
        ("SEGSRV_PORT", "tcp://10.0.0.1"),
        ("SEGSRV_PORT", "tcp://:8080"),
        ("SEGSRV_PORT", "tcp://nowhere:8080"),
        ("SEGSRV_PORT", "http://10.0.0.1:8080"),
        ("SEGSRV_PORT", "tcp://10.0.0.1:8080 "),
        ("SEGSRV_HOST_PORT", "8080"),
        ("SEGSRV_SERVICE_HOST", "nowhere"),
        ("SEGSRV_SERVICE_PORT", "http"),
        ("SEGSRV_SERVICE_PORT_http", "8080"),
        ("SEGSRV_SERVICE_NAME", "segsrv"),
        ("SEGSRV_PORT_8080_TCP", "8080"),
        ("SEGSRV_PORT_8080_TCP_PROTO", "http"),
        ("SEGSRV_PORT_8080_TCP_HOST", "10.0.0.1"),
        ("SEGSRV_PORT_HTTP_TCP", "tcp://10.0.0.1:8080"),
        ("SEGSRV_PROT", "8080"),
    ],
)
def test_what_only_looks_like_it_still_stops_the_start(variable, value):
    """A wrong port, a mistyped name, and a value that no cluster sets are refused by name."""
    with pytest.raises(SettingsError, match=variable):
        load({}, {variable: value})
