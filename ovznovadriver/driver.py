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

"""OvzDriver: what Nova can ask, and who answers it.

There is no logic here. A method that is missing is not supported: Nova's base class
raises NotImplementedError for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nova.conf

from nova.virt import driver, hardware
from ovznovadriver.compute import (
    console,
    diagnostics,
    errors,
    evacuation,
    events,
    image,
    interfaces,
    lifecycle,
    livemigration,
    migration,
    network,
    recovery,
    rescue,
    restart,
    snapshot,
)
from ovznovadriver.compute import host as ovz_host
from ovznovadriver.openvz import node as ovz_node

CONF = nova.conf.CONF


@errors.translates
class OvzDriver(driver.ComputeDriver):  # type: ignore[misc] # nova has no types
    """Nova's compute driver for OpenVZ containers."""

    # Nova reads it from the class as well as from the driver.
    capabilities: dict[str, bool] = {  # noqa: RUF012
        **driver.ComputeDriver.capabilities,
        "has_imagecache": True,
        "supports_attach_interface": True,
        "supports_device_tagging": True,
        "supports_evacuate": True,
        "supports_image_type_raw": True,
        "supports_tagged_attach_interface": True,
        "supports_trusted_certs": True,
    }

    def __init__(self, virtapi: Any) -> None:
        super().__init__(virtapi)
        self._network = network.Network(virtapi)
        self._node: ovz_node.Node
        self._host: ovz_host.Host
        self._images: image.ImageCache
        self._life: lifecycle.Lifecycle
        self._consoles: console.Consoles
        self._interfaces: interfaces.Interfaces
        self._diagnostics: diagnostics.Diagnostics
        self._evacuations: evacuation.Evacuations
        self._events: events.Watch | None = None
        self._live: livemigration.LiveMigrations
        self._migrations: migration.Migrations
        self._rescue: rescue.Rescue
        self._restart: restart.Restart
        self._snapshots: snapshot.Snapshots

    # -- the service ----------------------------------------------------------------

    def init_host(self, host: str) -> None:
        self._node = ovz_host.open_node(host)
        # Of this host alone: another in this process may have other programs.
        self.capabilities = {**self.capabilities, **image.capabilities(self._node)}
        self._host = ovz_host.Host(self._node)
        self._consoles = console.Consoles(CONF.openvz.console_socket)
        self._node.vzctl.witness = self._consoles
        self._open_subjects(image.ImageCache(self._node))
        recovery.recover(self._node)
        self._events = events.watch(self._node, self.emit_event)

    def _open_subjects(self, images: image.ImageCache) -> None:
        node, ports = self._node, self._network
        self._images = images
        self._life = lifecycle.Lifecycle(node, ports, images)
        self._interfaces = interfaces.Interfaces(node, ports)
        self._diagnostics = diagnostics.Diagnostics(node, ports)
        self._evacuations = evacuation.Evacuations(node, self._life, ports)
        self._live = livemigration.LiveMigrations(node, self._life, ports)
        self._migrations = migration.Migrations(
            node, self._life, ports, self._evacuations
        )
        self._rescue = rescue.Rescue(node, self._life, ports, images)
        self._restart = restart.Restart(
            node,
            self._life,
            self._rescue,
            self._interfaces,
            ports,
            self._live,
            self._evacuations,
        )
        self._snapshots = snapshot.Snapshots(node)

    def process_instances_at_startup(self, context: Any, instances: Any) -> Any:
        self._restart.process(context, instances)
        return instances

    def cleanup_host(self, host: str) -> None:
        # Nothing else is held open: no connection, no lock.
        if self._events is not None:
            self._events.stop()
        self._node.look.forget()

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self._host.nodename]

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        self._interfaces.mend_limits()
        return self._host.available_resource()

    def update_provider_tree(
        self, provider_tree: Any, nodename: str, allocations: Any = None
    ) -> None:
        self._host.update_provider_tree(provider_tree, nodename)

    def get_host_ip_addr(self) -> str:
        return str(CONF.my_ip)

    def get_host_uptime(self) -> str:
        return ovz_host.uptime()

    def get_volume_connector(self, instance: Any) -> dict[str, Any]:
        return ovz_host.volume_connector()

    # -- what is there --------------------------------------------------------------

    def list_instances(self) -> list[str]:
        return self._life.list_names()

    def list_instance_uuids(self) -> list[str]:
        return self._life.list_uuids()

    def get_num_instances(self) -> int:
        return len(self._life.list_names())

    def instance_exists(self, instance: Any) -> bool:
        return self._life.exists(instance)

    def get_info(self, instance: Any, use_cache: bool = True) -> hardware.InstanceInfo:
        return self._life.get_info(instance, use_cache)

    def get_diagnostics(self, instance: Any) -> dict[str, Any]:
        return self._diagnostics.plain(instance)

    def get_instance_diagnostics(self, instance: Any) -> Any:
        return self._diagnostics.standard(instance)

    # -- a server's life ------------------------------------------------------------

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: str | None,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: bool = True,
        accel_info: Any = None,
    ) -> None:
        self._life.spawn(
            context,
            instance,
            image_meta,
            injected_files,
            admin_password,
            network_info,
            block_device_info,
            power_on,
        )

    def rebuild(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: str | None,
        allocations: Any,
        bdms: Any,
        detach_block_devices: Any,
        attach_block_devices: Any,
        network_info: Any = None,
        evacuate: bool = False,
        block_device_info: Any = None,
        preserve_ephemeral: bool = False,
        accel_uuids: Any = None,
        reimage_boot_volume: bool = False,
    ) -> None:
        if not evacuate:
            raise NotImplementedError  # Nova does it by destroy and spawn then
        self._evacuations.arrive(instance, image_meta, network_info, block_device_info)

    def instance_on_disk(self, instance: Any) -> bool:
        return self._evacuations.find(instance) is not None

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        self._migrations.destroy(context, instance, network_info, destroy_disks)

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        self._live.clean_up(
            instance,
            network_info,
            migrate_data,
            destroy_disks=destroy_disks,
            destroy_vifs=destroy_vifs,
        )

    def power_on(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        self._life.power_on(instance, network_info)

    def power_off(
        self, instance: Any, timeout: int = 0, retry_interval: int = 0
    ) -> None:
        self._life.power_off(instance, timeout)

    def reboot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        reboot_type: str,
        block_device_info: Any = None,
        bad_volumes_callback: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        self._migrations.reboot(
            context, instance, network_info, hard=reboot_type == "HARD"
        )

    def poll_rebooting_instances(self, timeout: int, instances: Any) -> None:
        self._life.poll_rebooting(instances)

    def pause(self, instance: Any) -> None:
        self._life.pause(instance)

    def unpause(self, instance: Any) -> None:
        self._life.unpause(instance)

    def suspend(self, context: Any, instance: Any) -> None:
        self._life.suspend(instance)

    def resume(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        share_info: Any = None,
    ) -> None:
        self._life.resume(instance, network_info)

    def resume_state_on_host_boot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        share_info: Any,
        block_device_info: Any = None,
    ) -> None:
        self._life.resume_after_boot(instance, network_info)

    def rescue(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        image_meta: Any,
        rescue_password: str | None,
        block_device_info: Any,
        share_info: Any,
    ) -> None:
        self._rescue.rescue(
            context, instance, network_info, image_meta, rescue_password
        )

    def unrescue(self, context: Any, instance: Any) -> None:
        self._rescue.unrescue(instance)

    def snapshot(
        self,
        context: Any,
        instance: Any,
        image_id: str,
        update_task_state: Callable[..., None],
    ) -> None:
        self._snapshots.take(context, instance, image_id, update_task_state)

    # -- servers move ---------------------------------------------------------------

    def migrate_disk_and_power_off(
        self,
        context: Any,
        instance: Any,
        dest: str,
        flavor: Any,
        network_info: Any,
        block_device_info: Any = None,
        timeout: int = 0,
        retry_interval: int = 0,
    ) -> str:
        return self._migrations.leave(
            context, instance, dest, flavor, network_info, timeout
        )

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Any,
        disk_info: str,
        network_info: Any,
        image_meta: Any,
        resize_instance: bool,
        allocations: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        self._migrations.arrive(
            migration, instance, disk_info, network_info, image_meta, power_on
        )

    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        migration: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        self._migrations.return_(migration, instance, network_info, power_on)

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        self._migrations.confirm(migration, instance, network_info)

    def delete_instance_files(self, instance: Any) -> bool:
        return self._migrations.forget(instance)

    # -- servers move as they run ---------------------------------------------------

    def check_can_live_migrate_destination(
        self,
        context: Any,
        instance: Any,
        src_compute_info: Any,
        dst_compute_info: Any,
        block_migration: bool | None = False,
        disk_over_commit: bool | None = False,
    ) -> Any:
        address = self.get_host_ip_addr()
        return self._live.check_destination(instance, address, block_migration)

    def cleanup_live_migration_destination_check(
        self, context: Any, dest_check_data: Any
    ) -> None:
        self._live.end_check(dest_check_data)

    def check_can_live_migrate_source(
        self,
        context: Any,
        instance: Any,
        dest_check_data: Any,
        block_device_info: Any = None,
    ) -> Any:
        return self._live.check_source(instance, block_device_info, dest_check_data)

    def check_source_migrate_data_at_dest(
        self,
        ctxt: Any,
        instance: Any,
        migrate_data: Any,
        migration: Any,
        limits: Any,
        allocs: Any,
    ) -> Any:
        return self._live.check_number(instance, migrate_data)

    def pre_live_migration(
        self,
        context: Any,
        instance: Any,
        block_device_info: Any,
        network_info: Any,
        disk_info: Any,
        migrate_data: Any,
    ) -> Any:
        return self._live.prepare(instance, network_info, migrate_data)

    def live_migration(
        self,
        context: Any,
        instance: Any,
        dest: str,
        post_method: Callable[..., None],
        recover_method: Callable[..., None],
        block_migration: bool | None = False,
        migrate_data: Any = None,
    ) -> None:
        self._live.move(
            context,
            instance,
            dest,
            post_method,
            recover_method,
            block_migration,
            migrate_data,
        )

    def live_migration_abort(self, instance: Any) -> None:
        self._live.abort(instance)

    def rollback_live_migration_at_destination(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any,
        destroy_disks: bool = True,
        migrate_data: Any = None,
    ) -> None:
        self._live.roll_back(instance, network_info, migrate_data)

    def post_live_migration_at_source(
        self, context: Any, instance: Any, network_info: Any
    ) -> None:
        self._live.unplug(instance, network_info)

    def post_live_migration_at_destination(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_migration: bool | None = False,
        block_device_info: Any = None,
    ) -> None:
        self._live.arrive(instance, network_info)

    # -- in a server ----------------------------------------------------------------

    def set_admin_password(self, instance: Any, new_pass: str) -> None:
        self._life.set_admin_password(instance, new_pass)

    # -- consoles -------------------------------------------------------------------

    def get_console_output(self, context: Any, instance: Any) -> bytes:
        return self._consoles.output(instance)

    def get_serial_console(self, context: Any, instance: Any) -> Any:
        return self._consoles.serial(instance)

    # -- images ---------------------------------------------------------------------

    def cache_image(self, context: Any, image_id: str) -> bool:
        return self._images.cache(context, image_id)

    def manage_image_cache(self, context: Any, all_instances: Any) -> None:
        self._images.manage(all_instances)

    # -- ports ----------------------------------------------------------------------

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        self._life.plug_vifs(instance, network_info)

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        self._life.unplug_vifs(instance, network_info)

    def attach_interface(
        self, context: Any, instance: Any, image_meta: Any, vif: Any
    ) -> None:
        self._interfaces.attach(context, instance, vif)

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:
        self._interfaces.detach(context, instance, vif)
