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

"""The options of [openvz]: what an operator of 2014 wrote, and what is new."""

import io
import logging
import re

import pytest
from oslo_config import cfg, generator

from ovznovadriver import conf
from ovznovadriver.openvz import permit
from tests import support

#: The 2014 names, without `ovz_`, with a value other than the default of then.
OF_2014 = {
    "ve_private_dir": "/data/private",
    "ve_root_dir": "/data/root",
    "ve_conf_dir": "/data/conf",
    "lock_dir": "/data/locks",
    "image_template_dir": "/data/cache",
    "layout": "ploop",
    "default_config": "light",
    "disk_space_oversub_percent": "1.5",
    "use_cpuunit": "False",
    "use_cpulimit": "False",
    "use_cpus": "False",
    "use_ioprio": "False",
    "use_disk_quotas": "False",
    "use_ubc": "True",
    "cpulimit_overcommit_multiplier": "2.0",
    "memory_unit_size": "256",
    "file_descriptors_per_unit": "2048",
    "kmemsize_percent_of_memory": "10",
    "kmemsize_barrier_differential": "5",
    "numtcpsock_default": "1000",
    "numtcpsock_map": "512:1,1024:2",
    "migration_user": "root",
    "rsync_iterations": "2",
    "tc_mbit_per_unit": "10",
    "tc_max_line_speed": "10000",
}
#: Those that root's side is given as they are, and judges.
LIMITED = ("command", "create", "start", "stop", "migration", "live_migration")
WITHOUT_EFFECT = {
    "tc_template_dir": "/data/tc",
    "disk_space_increment": "M",
    "vif_driver": "ovznovadriver.openvz.network_drivers.OVZVethVIF",
    "use_veth_devs": "False",
    "tc_host_slave_device": "eth1",
    "tc_id_max": "99",
    "tmp_dir": "/data/tmp",
    "migration_method": "vzmigrate",
    "migration_transport": "scp",
    "vzmigrate_opts": "-v",
    "vzmigrate_online_migration": "False",
    "vzmigrate_destroy_source_container_on_migrate": "False",
    "vzmigrate_verbose_migration_logging": "False",
    "create_disk_partition": "True",
    "volume_settle_num_tries": "3",
    "iscsiadm_num_tries": "3",
    "max_symlink_wait_time": "9",
    "system_num_tries": "9",
    "template_path": "/data/templates",
    "bridge_device": "br100",
    "mount_options": "noatime",
    "volume_default_fs": "xfs",
    "disk_space_oversub": "1",
    "use_dhcp": "True",
    "use_bind_mount": "True",
}
SPELLINGS = (
    ("[DEFAULT]\novz_config_dir = /data/conf\n", "ve_conf_dir", "/data/conf"),
    ("[openvz]\nlayout = ploop\n", "layout", "ploop"),
    ("[openvz]\nlayout =\n", "layout", ""),
    (
        "[DEFAULT]\novz_layout = ploop\n[openvz]\nlayout = simfs\n",
        "layout",
        "simfs",
    ),
)
OPTIONS = {option.name: option for option in conf.list_opts()[0][1]}


@pytest.fixture
def configured(tmp_path):
    """Read a nova.conf; the options of [openvz]."""

    def read(text):
        path = tmp_path / "nova.conf"
        path.write_text(text)
        config = cfg.ConfigOpts()
        config.register_opt(cfg.StrOpt("state_path", default="/var/lib/nova"))
        conf.register_opts(config)
        config(["--config-file", str(path)], project="nova")
        return config.openvz

    return read


def test_without_any_setting_there_are_the_defaults_of_2014(configured):
    group = configured("")

    assert group.layout == "simfs"
    assert group.default_config == "basic"
    assert group.disk_space_oversub_percent == 1.10
    assert (group.use_ubc, group.use_cpuunit, group.use_cpus) == (False, True, True)
    assert group.numtcpsock_map["16384"] == 4000
    assert (group.memory_unit_size, group.file_descriptors_per_unit) == (512, 4096)


def test_claims_are_not_kept_where_everyone_may_write(configured):
    assert configured("").lock_dir == "/var/lib/nova/openvz/claims"


@pytest.mark.parametrize("name", OF_2014)
def test_an_option_of_2014_still_works_and_is_called_deprecated(
    configured, caplog, name
):
    default = configured("")[name]
    caplog.clear()
    given = configured(f"[DEFAULT]\novz_{name} = {OF_2014[name]}\n")[name]

    assert given != default
    if isinstance(given, str):
        assert given == OF_2014[name]
    assert f'"ovz_{name}"' in caplog.text
    assert "deprecated" in caplog.text.lower()


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_an_option_without_effect_is_accepted_with_a_warning(configured, caplog, name):
    given = configured(f"[DEFAULT]\novz_{name} = {WITHOUT_EFFECT[name]}\n")[name]

    assert given == WITHOUT_EFFECT[name]
    warning = next(r for r in caplog.records if "deprecated" in r.getMessage().lower())
    assert warning.levelno >= logging.WARNING
    assert name in warning.getMessage()
    assert OPTIONS[name].deprecated_reason


def test_no_option_of_2014_is_forgotten():
    named_so = {
        deprecated.name
        for option in OPTIONS.values()
        for deprecated in option.deprecated_opts
        if deprecated.group == "DEFAULT"
    }

    expected = {f"ovz_{name}" for name in (*OF_2014, *WITHOUT_EFFECT, "config_dir")}
    assert named_so == expected


@pytest.mark.parametrize(("text", "name", "value"), SPELLINGS)
def test_a_setting_is_read(configured, text, name, value):
    assert configured(text)[name] == value


@pytest.mark.parametrize(
    "line",
    [
        "layout = nfs",
        "privilege = sudo",
        "command_timeout = 0",
        "lock_wait = -1",
        "disk_space_oversub_percent = 0.9",
        "kmemsize_barrier_differential = 100",
        "kmemsize_percent_of_memory = 0",
        "memory_unit_size = 0",
        "numtcpsock_map = 512:many",
        "cpulimit_overcommit_multiplier = 0",
        "tc_mbit_per_unit = -1",
        "tc_max_line_speed = 0",
        "tc_max_line_speed = 1000001",
        *(f"{name}_timeout = {round(permit.TIMEOUT_LIMIT) + 1}" for name in LIMITED),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(configured, line):
    name = line.split()[0]

    with pytest.raises((cfg.ConfigFileValueError, ValueError)):
        configured(f"[openvz]\n{line}\n")[name]


def test_options_may_be_registered_twice():
    config = cfg.ConfigOpts()
    conf.register_opts(config)
    conf.register_opts(config)


@pytest.fixture
def sample(monkeypatch):
    """What oslo-config-generator prints."""
    found = [("ovznovadriver", conf.list_opts())]
    monkeypatch.setattr(generator, "_list_opts", lambda namespaces: found)
    config = cfg.ConfigOpts()
    generator.register_cli_opts(config)
    config(["--namespace", "ovznovadriver"])
    output = io.StringIO()
    generator.generate(config, output)
    return output.getvalue()


def test_the_sample_generator_lists_every_option_with_help(sample):
    assert sample.count("[openvz]\n") == 1
    for name, option in OPTIONS.items():
        assert len(option.help) > 10, name
        assert re.search(rf"^#{name} =", sample, re.MULTILINE), name


def test_the_sample_generator_tells_the_old_names(sample):
    for name in (*OF_2014, *WITHOUT_EFFECT):
        assert f"[DEFAULT]/ovz_{name}\n" in sample, name
    for name in WITHOUT_EFFECT:
        # Everything between the help and the option itself.
        entry = sample[: sample.index(f"\n#{name} = ")].rpartition("\n\n")[2]
        assert "deprecated for removal" in entry, name


def test_the_defaults_are_those_of_the_layers_below():
    """What a Node has without a configuration is what nova.conf's defaults say."""
    sizing = support.resources.SizingOptions()
    limits = support.vzctl.TimeLimits()
    for name in (
        *("use_ubc", "use_cpuunit", "use_cpulimit", "use_cpus", "use_ioprio"),
        *("use_disk_quotas", "cpulimit_overcommit_multiplier", "memory_unit_size"),
        *("file_descriptors_per_unit", "kmemsize_percent_of_memory"),
        *("kmemsize_barrier_differential", "numtcpsock_default", "default_config"),
        *("disk_space_oversub_percent", "tc_mbit_per_unit", "tc_max_line_speed"),
    ):
        assert OPTIONS[name].default == getattr(sizing, name), name
    for name in ("command", "create", "start", "stop"):
        assert OPTIONS[f"{name}_timeout"].default == getattr(limits, name), name
