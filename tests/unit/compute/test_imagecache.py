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

"""What stays in the template cache, and what goes."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from oslo_concurrency import lockutils

from ovznovadriver.compute import imagecache

LEASE = 2100
DAY = 24 * 3600
IDS = [f"0a9b8c7d-1111-4222-8333-44445555666{n}" for n in range(4)]


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "cache"
    directory.mkdir()
    return directory


def store_of(directory: pathlib.Path, max_bytes: int | None = None) -> imagecache.Store:
    return imagecache.Store(directory, LEASE, max_bytes)


def entry(image_id: str, size: int = 100, suffix: str = ".tar.gz") -> imagecache.Entry:
    return imagecache.Entry(
        image_id=image_id,
        suffix=suffix,
        file_size=size,
        unpacked_size=5 * size,
        prefix="",
        checksum=None,
        hash_algo=None,
        hash_value=None,
        certificates=[],
    )


def add(store: imagecache.Store, image_id: str, size: int = 100) -> imagecache.Entry:
    new = entry(image_id, size)
    with store.lock(image_id), store.part(image_id, "download") as part:
        part.write_bytes(bytes(size))
        store.add(new, part)
    return new


def age(path: pathlib.Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def put(
    directory: pathlib.Path,
    image_id: str,
    *,
    idle: float = 0,
    created: float | None = None,
    size: int = 100,
) -> None:
    """An image that was needed `idle` seconds ago, and given to a create `created`."""
    add(store_of(directory), image_id, size)
    age(directory / f"{image_id}.tar.gz", idle)
    age(directory / f"{image_id}.json", idle if created is None else created)


def there(directory: pathlib.Path) -> list[str]:
    return sorted({path.name.partition(".")[0] for path in directory.glob("[!.]*")})


def files(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.glob("[!.]*"))


# -- what counts ------------------------------------------------------------


def test_what_was_added_is_found(directory: pathlib.Path) -> None:
    store = store_of(directory)
    new = add(store, IDS[0])
    assert store.look_up(IDS[0]) == new
    assert store.archive(new) == directory / f"{IDS[0]}.tar.gz"
    assert store.look_up(IDS[1]) is None


def test_another_suffix_replaces_the_former_archive(directory: pathlib.Path) -> None:
    (directory / f"{IDS[0]}.tar").touch()
    add(store_of(directory), IDS[0])
    assert files(directory) == [f"{IDS[0]}.json", f"{IDS[0]}.tar.gz"]


def test_use_is_told_by_both_times(directory: pathlib.Path) -> None:
    put(directory, IDS[0], idle=5 * DAY)
    store_of(directory).use(entry(IDS[0]))
    for name in files(directory):
        assert time.time() - (directory / name).stat().st_mtime < 60


# -- age --------------------------------------------------------------------


def test_an_image_without_servers_goes_at_its_age(directory: pathlib.Path) -> None:
    put(directory, IDS[0], idle=DAY + 60)
    put(directory, IDS[1], idle=DAY - 60)
    store_of(directory).clean(used=(), min_age=DAY)
    assert there(directory) == [IDS[1]]


def test_a_server_keeps_its_image_and_the_age_counts_from_its_end(
    directory: pathlib.Path,
) -> None:
    put(directory, IDS[0], idle=9 * DAY)
    store = store_of(directory)
    store.clean(used={IDS[0]}, min_age=DAY)
    # Another host that shares the directory, and knows no server of it.
    store_of(directory).clean(used=(), min_age=DAY)
    assert there(directory) == [IDS[0]]
    age(directory / f"{IDS[0]}.tar.gz", DAY + 1)
    store.clean(used=(), min_age=DAY)
    assert there(directory) == []


def test_nothing_goes_by_age_where_nova_says_so(directory: pathlib.Path) -> None:
    put(directory, IDS[0], idle=900 * DAY)
    store_of(directory).clean(used=(), min_age=None)
    assert there(directory) == [IDS[0]]


def test_what_a_create_may_be_unpacking_stays_at_any_age(
    directory: pathlib.Path,
) -> None:
    put(directory, IDS[0], idle=LEASE - 60)
    put(directory, IDS[1], idle=LEASE + 60)
    store_of(directory, max_bytes=1).clean(used=(), min_age=0)
    assert there(directory) == [IDS[0]]


@contextlib.contextmanager
def held(directory: pathlib.Path, image: str) -> Iterator[None]:
    """Somebody else fetches an image, or makes a server of it."""
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store_of(directory).lock(image):
            begun.set()
            assert done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join(60)


def test_what_is_just_being_fetched_or_used_stays(directory: pathlib.Path) -> None:
    put(directory, IDS[0], idle=9 * DAY)
    with held(directory, IDS[0]):
        store_of(directory, max_bytes=1).clean(used=(), min_age=0)
        assert there(directory) == [IDS[0]]
    store_of(directory).clean(used=(), min_age=0)
    assert there(directory) == []


def test_a_use_that_comes_between_is_seen(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether an image is in use is looked at with its lock held, not before."""
    put(directory, IDS[0], idle=9 * DAY)
    store = store_of(directory)
    lock = imagecache.Store.lock

    def late(self: imagecache.Store, image_id: str, blocking: bool = True) -> object:
        with lock(self, image_id):
            self.use(entry(image_id))
        return lock(self, image_id, blocking)

    monkeypatch.setattr(imagecache.Store, "lock", late)
    store.clean(used=(), min_age=0)
    assert there(directory) == [IDS[0]]


# -- size -------------------------------------------------------------------


def test_the_ones_not_used_for_the_longest_make_room(directory: pathlib.Path) -> None:
    for number, days in enumerate((2, 3, 1)):
        put(directory, IDS[number], idle=days * DAY)
    add(store_of(directory, max_bytes=299), IDS[3])
    assert there(directory) == [IDS[2], IDS[3]]


def test_a_bound_that_is_kept_costs_nothing(directory: pathlib.Path) -> None:
    for number in range(2):
        put(directory, IDS[number], idle=DAY)
    store = store_of(directory, max_bytes=300)
    add(store, IDS[2])
    store.clean(used=(), min_age=None)
    assert there(directory) == IDS[:3]


def test_images_of_servers_go_last(directory: pathlib.Path) -> None:
    put(directory, IDS[0], idle=9 * DAY)
    put(directory, IDS[1], idle=DAY)
    store_of(directory, max_bytes=150).clean(used={IDS[0]}, min_age=None)
    assert there(directory) == [IDS[0]]


def test_a_full_cache_in_use_takes_another_and_says_so(
    directory: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(directory, IDS[0], idle=10)
    add(store_of(directory, max_bytes=150), IDS[1])
    assert there(directory) == IDS[:2]
    assert "image_cache_max_mb" in caplog.text


def test_an_image_that_is_fetched_anew_is_not_counted_twice(
    directory: pathlib.Path,
) -> None:
    put(directory, IDS[0], idle=DAY)
    put(directory, IDS[1], idle=2 * DAY)
    add(store_of(directory, max_bytes=200), IDS[0])
    assert there(directory) == IDS[:2]


# -- left-overs -------------------------------------------------------------


def half_archive(directory: pathlib.Path) -> pathlib.Path:
    path = directory / f"{IDS[0]}.tar.gz"
    path.touch()
    return path


def half_note(directory: pathlib.Path) -> pathlib.Path:
    add(store_of(directory), IDS[0])
    (directory / f"{IDS[0]}.tar.gz").unlink()
    return directory / f"{IDS[0]}.json"


def part(directory: pathlib.Path) -> pathlib.Path:
    (directory / ".incoming").mkdir(exist_ok=True)
    path = directory / ".incoming" / f"{IDS[0]}.convert.part"
    path.touch()
    return path


@pytest.mark.parametrize("make", [half_archive, half_note, part])
def test_what_a_crash_left_goes_when_it_is_old(
    make: Callable[[pathlib.Path], pathlib.Path], directory: pathlib.Path
) -> None:
    path = make(directory)
    store = store_of(directory)
    age(path, DAY - 60)
    store.clean(used=(), min_age=None)
    assert path.exists()
    age(path, DAY + 60)
    store.clean(used=(), min_age=None)
    assert not path.exists()


def test_what_is_under_way_is_no_left_over_at_any_age(directory: pathlib.Path) -> None:
    path = half_archive(directory)
    age(path, 9 * DAY)
    with held(directory, IDS[0]):
        store_of(directory).clean(used=(), min_age=0)
        assert path.exists()


def test_files_of_others_stay(directory: pathlib.Path) -> None:
    names = {
        "debian-12-x86_64.tar.gz": "",
        "centos.json": "{}",
        "list.json": "[]",
        f"{IDS[0]}.iso": "",
        f"{IDS[0]}x.tar.gz": "",
        "moved.json": json.dumps(vars(entry(IDS[1]))),
    }
    for name, text in names.items():
        (directory / name).write_text(text)
        age(directory / name, 90 * DAY)
    store_of(directory, max_bytes=1).clean(used=(), min_age=0)
    assert files(directory) == sorted(names)


def test_a_cache_that_was_never_used_is_cleaned(directory: pathlib.Path) -> None:
    store_of(directory).clean(used=(), min_age=0)
    assert files(directory) == []


def test_locks_are_shared_by_hosts(directory: pathlib.Path) -> None:
    """They are files in the shared directory, and not of nova's lock_path."""
    with store_of(directory).lock(IDS[0]):
        path = directory / ".incoming" / f"ovz-image-{IDS[0]}"
        assert path.exists()
        with (
            pytest.raises(lockutils.AcquireLockFailedException),
            store_of(directory).lock(IDS[0], blocking=False),
        ):
            pass
