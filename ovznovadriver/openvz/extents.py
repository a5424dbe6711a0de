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

"""Where a sparse file holds data."""

from __future__ import annotations

import errno
import heapq
import itertools
import os
from collections.abc import Callable

#: Parts of a file that are told apart. Where there are more, small holes count as
#: data: whoever reads an archive reads the list of them into memory.
MAX_EXTENTS = 10_000

Extents = tuple[tuple[int, int], ...]


def find(descriptor: int, size: int, check_time: Callable[[], None]) -> Extents:
    """Offset and bytes of each part of an open file that is no hole, in order.

    :param check_time: called now and then; what it raises passes
    """
    found: list[tuple[int, int]] = []
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole
                break
            if error.errno == errno.EINVAL:  # the file system cannot say
                return ((0, size),)
            raise
        if start >= size:
            break
        found.append((start, end - start))
        offset = end
        if len(found) > 2 * MAX_EXTENTS:
            check_time()
            found = _merged(found)
    return tuple(_merged(found))


def _merged(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extents of which there are not too many: the largest holes stay."""
    if len(extents) <= MAX_EXTENTS:
        return extents
    holes = [
        after - (before + size)
        for (before, size), (after, _) in itertools.pairwise(extents)
    ]
    numbers = range(len(holes))
    kept = set(heapq.nlargest(MAX_EXTENTS - 1, numbers, key=holes.__getitem__))
    merged = [extents[0]]
    for number, (start, size) in enumerate(extents[1:]):
        if number in kept:
            merged.append((start, size))
        else:
            before = merged[-1][0]
            merged[-1] = (before, start + size - before)
    return merged
