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

"""The template of containers whose tree comes from elsewhere."""

import os

from ovznovadriver.compute import emptytemplate
from tests import support


def test_vzctl_makes_a_container_of_it_without_files(sim, node):
    template = emptytemplate.prepare(node)

    container = support.create(node, template)

    tree = sim.tree(container.ovz_id)
    assert (tree / "etc").is_dir()
    assert [name for _, _, files in os.walk(tree / "usr") for name in files] == []


def test_it_is_written_once_and_again_when_it_is_broken(sim, node):
    emptytemplate.prepare(node)
    (path,) = sim.template_dir.glob("ovz-empty*")
    first = path.stat()

    emptytemplate.prepare(node)
    assert path.stat().st_ino == first.st_ino

    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    emptytemplate.prepare(node)
    assert path.read_bytes() == whole
    assert list(sim.template_dir.glob(".ovz-empty*")) == []
