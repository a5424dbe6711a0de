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

"""Ports: plugged into Open vSwitch by os-vif, and Neutron's word awaited.

A port's interface keeps its name inside the guest (eth0, eth1, …) for as long as the
port is the server's. The names are those of the order of the ports when the server is
made. They are kept with the instance, in its system_metadata, which reaches every host
that the server moves to: Nova may forget a port whose interface is there still, and
the others' names must not move up then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import nova.conf
import os_vif
from nova.network import model, os_vif_util
from os_vif import exception as os_vif_exception
from oslo_log import log as logging
from oslo_utils import uuidutils

from nova import exception as nova_exception
from nova import objects
from ovznovadriver import exception
from ovznovadriver.compute import spec
from ovznovadriver.openvz import hostends, resources, vzctl

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class Network:
    """The ports of this host's servers.

    :param virtapi: Nova's, to wait for events with
    """

    def __init__(self, virtapi: Any) -> None:
        self._virtapi = virtapi
        os_vif.initialize()

    def nics(self, instance: Any, network_info: Any) -> tuple[spec.Nic, ...]:
        """A server's interfaces, in the order of its ports.

        Touching network_info may raise what went wrong while Nova allocated it.

        :raises NetworkUnsupported: a port of a kind that cannot be plugged
        """
        return self._nics(network_info, _kept_names(instance))

    def nics_anew(self, instance: Any, network_info: Any) -> tuple[spec.Nic, ...]:
        """As :meth:`nics`, for a server that is made now.

        The names are kept from then on; Nova saves them with its next word on the
        server. Those of other ports, of an attempt on another host, are forgotten.
        """
        ports = {vif["id"] for vif in network_info or []}
        names = {p: n for p, n in _kept_names(instance).items() if p in ports}
        nics = self._nics(network_info, names)
        _keep_names(instance, {nic.port_id: nic.name for nic in nics})
        return nics

    @staticmethod
    def _nics(network_info: Any, names: Mapping[str, str]) -> tuple[spec.Nic, ...]:
        for vif in network_info or []:
            if not is_ovs(vif):
                raise exception.NetworkUnsupported(
                    f"port {vif['id']} has vif_type {vif['type']}; only"
                    f" {model.VIF_TYPE_OVS} (Open vSwitch, OVN) can be plugged"
                )
        return spec.nics_from_nova(network_info or [], names)

    def plug(self, instance: Any, network_info: Any) -> None:
        """Record the ports in Open vSwitch; one that is there already stays.

        :raises VirtualInterfacePlugException: os-vif failed
        """
        for vif, info in self._os_vif_objects(instance, network_info):
            try:
                os_vif.plug(vif, info)
            except os_vif_exception.ExceptionBase as error:
                raise nova_exception.VirtualInterfacePlugException(
                    f"port {vif.id} cannot be plugged: {error}"
                ) from error

    def unplug(self, instance: Any, network_info: Any) -> None:
        """Remove the ports from Open vSwitch; each one is tried.

        :raises CleanupFailed: with those that could not be removed
        """
        failures: list[str] = []
        for vif, info in self._os_vif_objects(instance, network_info):
            try:
                os_vif.unplug(vif, info)
            except os_vif_exception.ExceptionBase as error:
                failures.append(f"port {vif.id}: {error}")
        if failures:
            raise exception.CleanupFailed("unplugging", failures)

    def unplug_forgotten(self, instance: Any, devnames: Iterable[str]) -> None:
        """Remove ports of which Nova has no description, as :meth:`unplug` does.

        :param devnames: what their interfaces are called
        :raises CleanupFailed: with those that could not be removed
        """
        info = os_vif_util.nova_to_osvif_instance(instance)
        failures: list[str] = []
        for devname in devnames:
            try:
                os_vif.unplug(_vif_called(devname), info)
            except os_vif_exception.ExceptionBase as error:
                failures.append(f"port of {devname}: {error}")
        if failures:
            raise exception.CleanupFailed("unplugging", failures)

    def _os_vif_objects(self, instance: Any, network_info: Any) -> list[Any]:
        info = os_vif_util.nova_to_osvif_instance(instance)
        plugs = []
        for nova_vif in network_info or []:
            if not is_ovs(nova_vif):
                # It was refused before anything of it was made.
                continue
            vif = os_vif_util.nova_to_osvif_vif(nova_vif)
            # There is no hypervisor that would add the port, nor make a tap: vzctl
            # makes the host's end of the veth pair under the VIF's name.
            vif.port_profile.create_tap = False
            if not nova_vif.is_hybrid_plug_enabled():
                vif.port_profile.create_port = True
            plugs.append((vif, info))
        return plugs

    @contextlib.contextmanager
    def plugged(self, instance: Any, network_info: Any) -> Iterator[None]:
        """Plug the ports, run the block, then wait for Neutron's events.

        The block starts the container: Neutron's agent sees a port only when its
        interface is there.

        :raises VirtualInterfaceCreateException: an event did not come or says that
            it failed, and vif_plugging_is_fatal
        """
        try:
            with self._virtapi.wait_for_instance_event(
                instance,
                self._events(network_info),
                CONF.vif_plugging_timeout,
                error_callback=self._failed,
            ):
                self.plug(instance, network_info)
                yield
        except nova_exception.InstanceEventTimeout as error:
            if CONF.vif_plugging_is_fatal:
                raise nova_exception.VirtualInterfaceCreateException() from error
            LOG.warning(
                "Neutron did not say within %d s that the ports are plugged; going on",
                CONF.vif_plugging_timeout,
                instance=instance,
            )

    @staticmethod
    def _events(network_info: Any) -> list[tuple[str, str]]:
        if not CONF.vif_plugging_timeout:
            return []
        # A port that is active already will not become so.
        return [
            ("network-vif-plugged", vif["id"])
            for vif in network_info or []
            if vif.get("active", True) is False
        ]

    @staticmethod
    def _failed(event_name: str, instance: Any) -> None:
        LOG.error("Neutron reported failure on event %s", event_name, instance=instance)
        if CONF.vif_plugging_is_fatal:
            raise nova_exception.VirtualInterfaceCreateException()


def is_ovs(vif: Any) -> bool:
    """Whether a port is one that can be plugged."""
    return bool(vif["type"] == model.VIF_TYPE_OVS)


def veths(nics: tuple[spec.Nic, ...]) -> tuple[vzctl.Veth, ...]:
    """The interfaces as vzctl takes them."""
    return tuple(
        vzctl.Veth(name=nic.name, mac=nic.mac, host_ifname=nic.devname) for nic in nics
    )


def host_ends(
    nics: Sequence[spec.Nic], limits: resources.Limits
) -> tuple[hostends.HostEnd, ...]:
    """What the host has to do for the interfaces whenever they appear."""
    return tuple(
        hostends.HostEnd(
            host_ifname=nic.devname,
            name=nic.name,
            mac=nic.mac,
            bridge=nic.bridge,
            mtu=nic.mtu,
            inbound=limits.inbound,
            outbound=limits.outbound,
            addresses=tuple(
                str(address.ip)
                for subnet in nic.subnets
                for address in subnet.addresses
            ),
        )
        for nic in nics
    )


# -- what is kept with the instance -------------------------------------------------

_NAME_KEY = "ovz_nic_"


def _kept_names(instance: Any) -> dict[str, str]:
    """The names of a server's interfaces by port, as far as they are kept."""
    return {
        key.removeprefix(_NAME_KEY): name
        for key, name in instance.system_metadata.items()
        if key.startswith(_NAME_KEY)
    }


def keep(
    context: Any,
    instance: Any,
    nics: Sequence[spec.Nic],
    gone: Sequence[spec.Nic] = (),
) -> None:
    """Keep with the instance how its interfaces are named and tagged from now on.

    :param gone: those that it has no more
    """
    names = _kept_names(instance) | {nic.port_id: nic.name for nic in nics}
    for nic in gone:
        names.pop(nic.port_id, None)
    _keep_names(instance, names)
    describe_devices(context, instance, nics)
    instance.save()


def _keep_names(instance: Any, names: Mapping[str, str]) -> None:
    others = {
        key: value
        for key, value in instance.system_metadata.items()
        if not key.startswith(_NAME_KEY)
    }
    instance.system_metadata = others | {
        f"{_NAME_KEY}{port}": name for port, name in names.items()
    }


def describe_devices(context: Any, instance: Any, nics: Sequence[spec.Nic]) -> None:
    """Let the server's metadata say which interface bears which of the user's tags."""
    known = objects.VirtualInterfaceList.get_by_instance_uuid(context, instance.uuid)
    tags = {vif.uuid: vif.tag for vif in known if "tag" in vif and vif.tag}
    old = instance.device_metadata.devices if instance.device_metadata else []
    kind = objects.NetworkInterfaceMetadata
    devices = [device for device in old if not isinstance(device, kind)]
    devices += [
        kind(mac=nic.mac, tags=[tags[nic.port_id]])
        for nic in nics
        if nic.port_id in tags
    ]
    instance.device_metadata = (
        objects.InstanceDeviceMetadata(devices=devices) if devices else None
    )


def _vif_called(devname: str) -> Any:
    """What os-vif needs to know of a port to remove it from Neutron's bridge.

    A name of Nova's has the first eleven characters of the port's ID, by which os-vif
    finds a bridge of hybrid plug.
    """
    port = f"{devname.removeprefix('tap')}00-0000-0000-000000000000"
    if not uuidutils.is_uuid_like(port):
        port = uuidutils.generate_uuid()
    bridge = CONF.neutron.ovs_bridge
    return os_vif.objects.vif.VIFOpenVSwitch(
        id=port,
        plugin="ovs",
        vif_name=devname,
        bridge_name=bridge,
        network=os_vif.objects.network.Network(bridge=bridge),
        port_profile=os_vif.objects.vif.VIFPortProfileOpenVSwitch(
            interface_id=port, create_port=True, create_tap=False
        ),
    )
