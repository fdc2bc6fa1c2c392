# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest

from acl_jax.text import instructions
from acl_jax.text.templates import Audio

WEIGHED = (('{}', 6.0), ('Continue this: {}', 3.0), ('Put {} into French.', 1.0))


def test_they_are_drawn_by_weight_from_the_id_alone():
  ids = [f'utterance {i}' for i in range(4_000)]
  drawn = [instructions.choose_instruction(WEIGHED, id, seed=1) for id in ids]
  counts = Counter(drawn)
  for instruction, weight in WEIGHED:
    assert counts[instruction] / len(ids) == pytest.approx(weight / 10, abs=0.03)
  again = [instructions.choose_instruction(WEIGHED, id, seed=1) for id in reversed(ids)]
  assert again == drawn[::-1]
  assert [instructions.choose_instruction(WEIGHED, id, seed=2) for id in ids] != drawn


def test_the_recording_stands_where_the_transcript_would():
  audio = Audio(0)
  for instruction, _ in WEIGHED:
    content = instructions.fill_audio(instruction, audio)
    assert content.count(audio) == 1 and '' not in content
    joined = ''.join('hi {} there' if part == audio else part for part in content)
    assert joined == instructions.fill_text(instruction, 'hi {} there')
  assert instructions.fill_audio('{}', audio) == (audio,)
  assert instructions.fill_audio('Put {} into French.', audio)[2] == ' into French.'


@pytest.mark.parametrize(
  'weighed, problem',
  [
    ((), "is empty; '{}' is the plain prompt"),
    ((('Continue', 1.0),), "'Continue' has 0 times '{}'"),
    ((('{} or {}', 1.0),), "'{} or {}' has 2 times '{}'"),
    ((('{}', 0.0),), "the weight of '{}' is 0.0, not above 0"),
    ((('{}', float('nan')),), "the weight of '{}' is nan, not above 0"),
  ],
)
def test_what_is_no_instruction_is_refused(weighed, problem):
  with pytest.raises(ValueError, match='targets.instructions') as raised:
    instructions.check_instructions(weighed)
  assert problem in str(raised.value)
