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

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_utils import secretutils

from ovznovadriver import exception
from ovznovadriver.compute import shadow

# From the specification of SHA-crypt (Drepper, "Unix crypt using SHA-256 and
# SHA-512"), its test vectors for SHA-512.
KNOWN = [
    (
        "$6$saltstring",
        "Hello world!",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJu"
        "esI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    (
        "$6$rounds=10000$saltstringsaltstring",
        "Hello world!",
        "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sb"
        "HbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ),
]


@pytest.mark.parametrize(("salt", "password", "expected"), KNOWN)
def test_the_library_makes_the_specifications_hashes(salt, password, expected):
    assert secretutils.crypt_password(password, salt) == expected


def test_a_hash_is_that_of_the_password_with_a_salt_of_its_own():
    first, second = (shadow.hash_password("pässword") for _ in range(2))

    assert first != second
    for hashed in (first, second):
        salt = hashed.rpartition("$")[0]
        assert salt.startswith("$6$")
        assert secretutils.crypt_password("pässword", salt) == hashed
        assert secretutils.crypt_password("other", salt) != hashed


def test_hashes_made_at_once_are_not_mixed_up(monkeypatch):
    """crypt(3) has one buffer for the whole process."""
    busy = threading.Lock()

    def crypt(password, salt):
        assert busy.acquire(blocking=False), "two calls at once"
        try:
            return real(password, salt)
        finally:
            busy.release()

    real = secretutils.crypt_password
    monkeypatch.setattr(secretutils, "crypt_password", crypt)
    hashes = {}

    def hash_one(password):
        hashes[password] = shadow.hash_password(password)

    threads = [threading.Thread(target=hash_one, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(hashes) == 8
    for password, hashed in hashes.items():
        assert real(password, hashed.rpartition("$")[0]) == hashed


def _raises(error):
    def crypt(_password, _salt):
        raise error

    return crypt


@pytest.mark.parametrize(
    "crypt",
    [
        _raises(RuntimeError("libcrypt is not available")),
        _raises(AttributeError("'NoneType' object has no attribute 'decode'")),
        lambda _password, _salt: "*0",
        lambda _password, _salt: "abDESDESDESDE",
    ],
)
def test_a_libcrypt_that_cannot_is_an_error_without_the_password(monkeypatch, crypt):
    monkeypatch.setattr(secretutils, "crypt_password", crypt)

    with pytest.raises(exception.OvzError, match="libcrypt") as caught:
        shadow.hash_password("s3cret")

    assert "s3cret" not in str(caught.value)


def test_only_the_password_of_the_user_changes():
    text = b"root:*:19000:0:99999:7:::\nrooty:!:1::::::\n\xff:x:\n"

    assert shadow.set_password(text, "root", "$6$s$h") == (
        b"root:$6$s$h:19000:0:99999:7:::\nrooty:!:1::::::\n\xff:x:\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", b"root:H:::::::\n"),
        (b"bin:*:1::::::\n", b"bin:*:1::::::\nroot:H:::::::\n"),
        (b"bin:*:1::::::", b"bin:*:1::::::\nroot:H:::::::\n"),
        (b"root:", b"root:H\n"),
        (b"root:old\n", b"root:H\n"),
    ],
)
def test_a_user_without_a_proper_line_gets_one(text, expected):
    assert shadow.set_password(text, "root", "H") == expected


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)))
def test_no_other_line_ever_changes(lines):
    text = b"\n".join(lines)

    changed = shadow.set_password(text, "root", "$6$s$h")

    kept = [line for line in _lines(text) if not line.startswith(b"root:")]
    assert [line for line in _lines(changed) if not line.startswith(b"root:")] == kept
    roots = [line for line in _lines(changed) if line.startswith(b"root:")]
    assert roots
    assert all(line.split(b":")[1] == b"$6$s$h" for line in roots)


def _lines(text):
    return [line for line in text.split(b"\n") if line]
