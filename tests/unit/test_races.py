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


from tests.races.race import Life, shared_numbers


def test_a_number_that_two_had_at_once_is_found():
    lives = [Life("101", 0, 2), Life("102", 0, 9), Life("101", 1, 3)]
    assert shared_numbers(lives) == ["101"]


def test_one_within_a_longer_life_is_found_behind_another():
    lives = [Life("101", 0, 9), Life("101", 1, 2), Life("101", 5, 6)]
    assert shared_numbers(lives) == ["101"]


def test_a_number_may_be_used_again():
    lives = [Life("101", 2, 3), Life("101", 0, 1), Life("102", 0, 9)]
    assert shared_numbers(lives) == []
