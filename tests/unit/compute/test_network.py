# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""Ports: os-vif is asked here as nova asks it, and stands still."""

import pytest
from nova.network import model

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import network
from ovznovadriver.openvz import vzctl
from tests.unit.compute import ports

PORTS = ports.PORTS


@pytest.fixture
def calls(ovs):
    """What happened, in order."""
    return ovs.calls


# -- what can be plugged ------------------------------------------------------------


def test_interfaces_come_in_the_order_of_the_ports(net, instance):
    nics = net.nics(instance, ports.network_info())

    assert [(nic.name, nic.port_id) for nic in nics] == [
        ("eth0", PORTS[0]),
        ("eth1", PORTS[1]),
    ]
    assert network.veths(nics) == (
        vzctl.Veth("eth0", "fa:16:3e:00:00:01", "tap3c1a4e1e-00"),
        vzctl.Veth("eth1", "fa:16:3e:00:00:02", "tap3c1a4e1e-01"),
    )


@pytest.mark.parametrize("nothing", [None, [], model.NetworkInfo()])
def test_a_server_may_have_no_port(net, instance, calls, nothing):
    assert net.nics(instance, nothing) == ()
    net.plug(instance, nothing)
    net.unplug(instance, nothing)
    assert calls == []


@pytest.mark.parametrize("kind", ["bridge", "vhostuser", "hw_veb", "binding_failed"])
def test_a_port_that_is_not_open_vswitchs_is_refused(net, instance, kind):
    with pytest.raises(exception.NetworkUnsupported, match=kind):
        net.nics(instance, ports.network_info(ports.vif(type=kind)))


def hybrid(port=PORTS[0]):
    return ports.vif(port, details={"ovs_hybrid_plug": True, "port_filter": True})


def test_a_port_may_have_a_bridge_of_its_own(net, instance, calls):
    info = ports.network_info(hybrid(), ports.vif(PORTS[1]))

    net.plug(instance, info)

    assert [nic.bridge for nic in net.nics(instance, info)] == ["qbr3c1a4e1e-0d", None]
    assert calls == [("plug", PORTS[0]), ("plug", PORTS[1])]


def test_names_that_are_kept_stay_and_others_take_what_is_free(net, instance):
    instance.system_metadata = {f"ovz_nic_{PORTS[1]}": "eth0", "other": "eth7"}

    nics = net.nics(instance, ports.network_info())

    assert [(nic.port_id, nic.name) for nic in nics] == [
        (PORTS[0], "eth1"),
        (PORTS[1], "eth0"),
    ]


def test_names_and_tags_are_kept_with_the_instance(net, instance, monkeypatch):
    saved = []
    monkeypatch.setattr(objects.Instance, "save", lambda self: saved.append(self))
    known = [objects.VirtualInterface(uuid=PORTS[1], address="unused", tag="storage")]
    monkeypatch.setattr(
        objects.VirtualInterfaceList,
        "get_by_instance_uuid",
        lambda context, uuid: known,
    )
    instance.system_metadata = {"ovz_nic_forgotten": "eth2", "other": "x"}
    disk = objects.DiskMetadata(serial="volume", tags=["data"])
    instance.device_metadata = objects.InstanceDeviceMetadata(devices=[disk])
    nics = net.nics(instance, ports.network_info())

    network.keep(None, instance, nics)

    assert instance.system_metadata == {
        "other": "x",
        "ovz_nic_forgotten": "eth2",
        f"ovz_nic_{PORTS[0]}": "eth0",
        f"ovz_nic_{PORTS[1]}": "eth1",
    }
    kept, tagged = instance.device_metadata.devices
    assert kept is disk
    assert (tagged.mac, tagged.tags) == ("fa:16:3e:00:00:02", ["storage"])
    assert saved == [instance]
    network.keep(None, instance, nics[1:], nics[:1])
    assert f"ovz_nic_{PORTS[0]}" not in instance.system_metadata


def test_names_are_given_anew_to_a_server_that_is_made(net, instance):
    """A build that was tried on another host had other ports there."""
    instance.system_metadata = {
        f"ovz_nic_{PORTS[1]}": "eth0",
        "ovz_nic_gone": "eth1",
    }

    nics = net.nics_anew(instance, ports.network_info())

    assert [nic.name for nic in nics] == ["eth1", "eth0"]
    assert instance.system_metadata == {
        f"ovz_nic_{PORTS[0]}": "eth1",
        f"ovz_nic_{PORTS[1]}": "eth0",
    }


def test_what_went_wrong_while_ports_were_made_is_told(net, instance):
    class Failed(model.NetworkInfoAsyncWrapper):
        def __init__(self):
            """There is no thread whose end could be waited for."""

        def _sync_wrapper(self, wrapped, *args, **kwargs):
            raise nova_exception.PortLimitExceeded

        def __bool__(self):
            return True

        def __iter__(self):
            raise nova_exception.PortLimitExceeded

    with pytest.raises(nova_exception.PortLimitExceeded):
        net.nics(instance, Failed())


# -- plugging -----------------------------------------------------------------------


def test_every_port_is_plugged_and_unplugged(net, instance, calls):
    net.plug(instance, ports.network_info())
    net.unplug(instance, ports.network_info())

    assert calls == [
        *(("plug", PORTS[0]), ("plug", PORTS[1])),
        *(("unplug", PORTS[0]), ("unplug", PORTS[1])),
    ]


def test_a_port_that_cannot_be_plugged_is_an_error(net, ovs, instance, calls):
    ovs.failing.add(PORTS[0])

    with pytest.raises(
        nova_exception.VirtualInterfacePlugException, match=PORTS[0]
    ) as caught:
        net.plug(instance, ports.network_info())

    assert "no ovsdb" in str(caught.value)
    assert calls == [("plug", PORTS[0])]


def test_each_port_is_unplugged_also_after_one_that_failed(net, ovs, instance, calls):
    ovs.failing.add(PORTS[0])

    with pytest.raises(exception.CleanupFailed) as caught:
        net.unplug(instance, ports.network_info())

    assert len(calls) == 2
    assert len(caught.value.failures) == 1
    assert PORTS[0] in caught.value.failures[0]


def test_a_port_that_was_refused_needs_no_unplugging(net, instance, calls):
    net.unplug(
        instance, ports.network_info(ports.vif(type="bridge"), ports.vif(PORTS[1]))
    )

    assert calls == [("unplug", PORTS[1])]


# -- Neutron's events ---------------------------------------------------------------


def start(net, instance, calls, given=None):
    with net.plugged(instance, ports.network_info() if given is None else given):
        calls.append(("start",))


def fail(instance, error_callback):
    error_callback("network-vif-plugged-1", instance)


def time_out(instance, error_callback):
    raise nova_exception.InstanceEventTimeout


def test_ports_are_plugged_before_the_start_and_events_awaited_after(
    net, events, flags, instance, calls
):
    start(net, instance, calls)

    assert calls == [
        ("wait for", tuple(("network-vif-plugged", port) for port in PORTS)),
        ("plug", PORTS[0]),
        ("plug", PORTS[1]),
        ("start",),
        ("events",),
    ]
    assert events.timeout == 300


def test_a_port_that_is_active_already_sends_no_event(net, flags, instance, calls):
    start(
        net,
        instance,
        calls,
        ports.network_info(ports.vif(active=True), ports.vif(PORTS[1])),
    )

    assert calls[0] == ("wait for", (("network-vif-plugged", PORTS[1]),))


def test_without_a_timeout_nothing_is_awaited(net, flags, instance, calls):
    flags(vif_plugging_timeout=0)

    start(net, instance, calls)

    assert calls[0] == ("wait for", ())


@pytest.mark.parametrize("outcome", [fail, time_out])
def test_without_its_event_a_server_fails(net, events, flags, instance, calls, outcome):
    events.outcome = outcome

    with pytest.raises(nova_exception.VirtualInterfaceCreateException):
        start(net, instance, calls)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [(fail, "failure on event"), (time_out, "did not say within 300 s")],
)
def test_an_operator_may_do_without_events(
    net, events, flags, instance, calls, caplog, outcome, said
):
    flags(vif_plugging_is_fatal=False)
    events.outcome = outcome

    start(net, instance, calls)

    assert said in caplog.text


def test_what_goes_wrong_in_the_block_goes_on(net, flags, instance):
    def failing_start():
        with net.plugged(instance, ports.network_info()):
            raise exception.InterfaceMissing("no tap")

    with pytest.raises(exception.InterfaceMissing):
        failing_start()


def test_a_failed_plug_ends_it_before_the_start(net, ovs, flags, instance, calls):
    ovs.failing.add(PORTS[1])

    with pytest.raises(nova_exception.VirtualInterfacePlugException):
        start(net, instance, calls)

    assert ("start",) not in calls
