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


"""The documents are what docutils can read: one bad table hides the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from docutils import core, nodes
from docutils.parsers.rst import Directive, directives, roles

PROJECT = Path(__file__).parents[2]
DOCUMENTS = [PROJECT / "README.rst", *sorted(PROJECT.glob("doc/source/*.rst"))]


class _Contents(Directive):
    """Stands for Sphinx's toctree."""

    has_content = True
    option_spec = {"maxdepth": directives.nonnegative_int}  # noqa: RUF012 - docutils'

    def run(self) -> list[nodes.Node]:
        return []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_can_be_read(path: Path) -> None:
    roles.register_generic_role("doc", nodes.literal)
    directives.register_directive("toctree", _Contents)
    said = {"report_level": 2, "halt_level": 5, "warning_stream": False}

    tree = core.publish_doctree(path.read_text(), settings_overrides=said)

    found = [
        f"line {message.get('line')}: {message.astext()}"
        for message in tree.findall(nodes.system_message)
        if message["level"] >= said["report_level"]
    ]
    assert found == []
