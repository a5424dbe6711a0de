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
"""Options as GNU getopt_long takes them: unique prefixes, --x=v, any order."""

from __future__ import annotations


class BadOption(Exception):
    """An option that getopt refuses, with the message it prints."""


def _resolve(word: str, known: dict[str, bool], program: str) -> str:
    if word in known:
        return word
    matches = [name for name in known if name.startswith(word)]
    if not matches:
        raise BadOption(f"{program}: unrecognized option '--{word}'")
    if len(matches) > 1:
        listed = " ".join(f"'--{name}'" for name in matches)
        raise BadOption(
            f"{program}: option '--{word}' is ambiguous; possibilities: {listed}"
        )
    return matches[0]


def parse(
    args: list[str], known: dict[str, bool], program: str
) -> tuple[list[tuple[str, str]], list[str]]:
    """Options with their values in the order given, and the other arguments.

    :param known: long option name -> whether it takes an argument.
    :raises BadOption: as getopt_long would complain.
    """
    found: list[tuple[str, str]] = []
    extra: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            extra.extend(rest)
            break
        if word.startswith("--"):
            typed, equals, value = word[2:].partition("=")
            name = _resolve(typed, known, program)
            if not known[name]:
                if equals:
                    raise BadOption(
                        f"{program}: option '--{name}' doesn't allow an argument"
                    )
            elif not equals:
                if not rest:
                    raise BadOption(
                        f"{program}: option '--{typed}' requires an argument"
                    )
                value = rest.pop(0)
            found.append((name, value))
        elif word.startswith("-") and len(word) > 1:
            raise BadOption(f"{program}: invalid option -- '{word[1]}'")
        else:
            extra.append(word)
    return found, extra
