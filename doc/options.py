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

"""Print the option reference, ``doc/source/options.rst``."""

from __future__ import annotations

import re
import textwrap

from ovznovadriver import conf

_HEAD = """\
=======
Options
=======

All are in the section ``[openvz]`` of nova.conf. ``tox -e genconfig`` prints them as
a sample file. *Was* is the name that the driver of 2014 had in ``[DEFAULT]``; it
still works, with a warning.
"""


def _range(option: object) -> str:
    kind = option.type  # type: ignore[attr-defined] # oslo.config has no types
    limits = [
        f"{name} {value}"
        for name, value in (
            ("at least", getattr(kind, "min", None)),
            ("at most", getattr(kind, "max", None)),
        )
        if value is not None
    ]
    choices = getattr(kind, "choices", None)
    if choices:
        limits.append("one of " + ", ".join(f"``{c or '(empty)'}``" for c in choices))
    return "; ".join(limits)


def reference() -> str:
    """The document, as reStructuredText."""
    parts = [_HEAD]
    obsolete = []
    for _group, options in conf.list_opts():
        for option in options:
            if option.deprecated_for_removal:
                obsolete.append(f"* ``ovz_{option.name}``: {option.deprecated_reason}")
                continue
            default = "unset" if option.default is None else f"``{option.default}``"
            if option.default == "":
                default = "empty"
            facts = [f"Default: {default}", _range(option)]
            facts += [f"was ``{old.name}``" for old in option.deprecated_opts]
            # An underscore at the end of a word would make a link of it.
            said = re.sub(r"_(?!\w)", r"\\_", option.help)
            text = f"{said} {'. '.join(filter(None, facts))}."
            body = textwrap.fill(text, 80, break_on_hyphens=False)
            parts.append(f"``{option.name}``\n{textwrap.indent(body, '    ')}\n")
    parts.append("Accepted without effect\n=======================\n")
    parts.append("From an old nova.conf, in ``[DEFAULT]``; each gives a warning.\n")
    parts.append("\n".join(sorted(obsolete)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
