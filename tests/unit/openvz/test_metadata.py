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

"""openvz/metadata.py: what is a tag of ours, and what never is."""

import base64
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ovznovadriver import exception
from ovznovadriver.openvz import metadata

UUID = "f0a1c7c1-0f3d-4a57-9a70-5f3a3f4c0c55"
TAG = metadata.Tag(host="node1", name="instance-00000001", nova_id="1", uuid=UUID)

tags = st.builds(
    metadata.Tag,
    host=st.text(max_size=255),
    name=st.text(max_size=255),
    nova_id=st.integers(min_value=0).map(str),
    uuid=st.uuids().map(str),
)


def packed(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return metadata.PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@given(tags)
@example(metadata.Tag('"; $(reboot) `x`\n\\', "é 日本 \U0001f600", "7", UUID))
def test_a_tag_survives_in_characters_that_mean_nothing_to_any_tool(tag):
    try:
        description = metadata.encode(tag)
    except exception.InvalidValue:
        # Only control characters, of which JSON makes six each, get that long.
        assert len(json.dumps(tag.host + tag.name, ensure_ascii=False).encode()) > 2000
        return
    assert re.fullmatch(r"[A-Za-z0-9_-]+", description)
    assert len(description) <= metadata.MAX_LENGTH
    assert metadata.decode(description) == tag
    assert metadata.legacy(description) is None


def test_novas_longest_names_fit():
    tag = metadata.Tag("\U0001f600" * 255, "\U0001f600" * 255, "9" * 19, UUID)
    assert metadata.decode(metadata.encode(tag)) == tag


def test_a_tag_that_vzlist_would_cut_is_refused():
    long = metadata.Tag("h" * metadata.MAX_LENGTH, "n", "1", UUID)
    with pytest.raises(exception.InvalidValue, match=f"{UUID}.*holds 3072"):
        metadata.encode(long)


def test_a_name_that_is_no_unicode_text_is_refused():
    with pytest.raises(exception.InvalidValue, match="cannot be tagged"):
        metadata.encode(metadata.Tag("node1", "\ud800", "1", UUID))


@pytest.mark.parametrize(
    "description",
    [
        "",
        "-",
        "5",
        "[1]",
        "{}",
        "while running",
        metadata.PREFIX,
        metadata.PREFIX + "!!!",
        metadata.PREFIX + "é",
        metadata.PREFIX + "A",
        packed(b"\xff\xfe"),
        packed("5"),
        packed("[]"),
        packed("[1]"),
        packed("null"),
        packed("[" * 2000),
        packed('{"host":"h","name":"n","nova_id":"1"}'),
        packed('{"host":"h","name":"n","nova_id":"1","uuid":"u","extra":"x"}'),
        packed('{"host":"h","name":"n","nova_id":1,"uuid":"u"}'),
        packed('{"host":"h","name":"n","nova_id":"1","uuid":null}'),
        packed('{"host":"h","name":"n","nova_id":"1","uuid":"u","uuid":"v"}'),
        packed('{"host":"\\ud800","name":"n","nova_id":"1","uuid":"u"}'),
        # What encode would have written otherwise:
        packed('{"name":"n","host":"h","nova_id":"1","uuid":"u"}'),
        packed('{"host": "h","name":"n","nova_id":"1","uuid":"u"}'),
        metadata.encode(TAG) + "=",
        metadata.encode(TAG) + "\n",
        " " + metadata.encode(TAG),
        metadata.encode(TAG).replace("nova1-", "nova2-"),
        metadata.encode(TAG).replace("nova1-", "NOVA1-"),
    ],
)
def test_anything_that_encode_did_not_write_is_no_tag(description):
    assert metadata.decode(description) is None


@given(st.integers(min_value=0, max_value=len(metadata.encode(TAG)) - 1))
def test_a_tag_that_was_cut_is_no_tag(length):
    assert metadata.decode(metadata.encode(TAG)[:length]) is None


@given(
    st.one_of(st.text(), st.text().map(metadata.PREFIX.__add__), st.text().map(packed))
)
def test_no_text_makes_decode_or_legacy_raise(text):
    for found in (metadata.decode(text), metadata.legacy(text)):
        assert found is None or isinstance(found, metadata.Tag)


@given(st.characters(categories=["Cs"]))
def test_output_that_was_no_utf8_is_no_tag(surrogate):
    assert metadata.decode(metadata.PREFIX + surrogate) is None
    assert metadata.legacy(surrogate) is None


def of_2014(tag: metadata.Tag, order: tuple[str, ...] | None = None) -> str:
    keys = order or ("host", "name", "nova_id", "uuid")
    return json.dumps({key: getattr(tag, key) for key in keys})


@pytest.mark.parametrize(
    "order",
    [None, ("nova_id", "host", "uuid", "name"), ("uuid", "name", "nova_id", "host")],
)
def test_a_container_of_2014_is_recognised_in_any_order_of_keys(order):
    assert metadata.legacy(of_2014(TAG, order)) == TAG
    assert metadata.decode(of_2014(TAG, order)) is None


def test_a_quote_in_a_name_of_2014_lost_its_backslash():
    quoted = metadata.Tag("node1", 'say "hi"', "1", UUID)
    stored = of_2014(quoted).replace("\\", "")
    with pytest.raises(json.JSONDecodeError):
        json.loads(stored)
    assert metadata.legacy(stored) == quoted


def test_a_character_outside_ascii_in_a_name_of_2014_cannot_be_restored():
    stored = of_2014(metadata.Tag("node1", "café", "1", UUID)).replace("\\", "")
    assert metadata.legacy(stored) == metadata.Tag("node1", "cafu00e9", "1", UUID)


@pytest.mark.parametrize(
    "name",
    [
        'x", "uuid": "00000000-0000-0000-0000-000000000000',
        'x", "host": "node2", "y": "',
        'x", "name": "y',
        '"host": "',
    ],
)
def test_a_name_cannot_forge_another_identity(name):
    tag = metadata.Tag("node1", name, "1", UUID)
    assert metadata.legacy(of_2014(tag).replace("\\", "")) is None
    assert metadata.legacy(of_2014(tag)) == tag


@given(tags)
def test_an_undamaged_container_of_2014_is_read_whole(tag):
    assert metadata.legacy(of_2014(tag)) == tag


@given(tags)
def test_whatever_vzctl_left_of_2014_names_the_same_instance_or_none(tag):
    found = metadata.legacy(of_2014(tag).replace("\\", ""))
    assert found is None or (found.uuid, found.nova_id) == (tag.uuid, tag.nova_id)


@pytest.mark.parametrize(
    "description",
    [
        "-",
        "5",
        "[1]",
        "[]",
        "{}",
        "null",
        "[" * 100000,
        '{"host": "h"}',
        '{"host": "h", "name": "n", "nova_id": "1", "uuid": "u", "x": "y"}',
        '{"host": "h", "name": "n", "nova_id": 1, "uuid": "u"}',
        '{"host": "h", "name": "n", "nova_id": "1", "uuid": {"a": "b"}}',
        '{"host": "h", "name": "n", "nova_id": "1", "uuid": "u',
        '{"host": "h", "name": "n"n", "nova_id": "1", "uuid": "u"} and more',
    ],
)
def test_other_descriptions_are_not_taken_for_one_of_2014(description):
    assert metadata.legacy(description) is None
