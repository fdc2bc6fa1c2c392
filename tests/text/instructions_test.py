# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest

from acl_jax.text import instructions
from acl_jax.text.templates import Audio

INSTRUCTIONS = (('{}', 6.0), ('Continue this: {}', 3.0), ('Put {} into French.', 1.0))


def test_choice_follows_the_weights_and_depends_on_the_id_alone():
  ids = [f'utterance {i}' for i in range(4_000)]
  drawn = [instructions.choose_instruction(INSTRUCTIONS, id, seed=1) for id in ids]
  counts = Counter(drawn)
  for instruction, weight in INSTRUCTIONS:
    assert counts[instruction] / len(ids) == pytest.approx(weight / 10, abs=0.03)
  again = [
    instructions.choose_instruction(INSTRUCTIONS, id, seed=1) for id in reversed(ids)
  ]
  assert again == drawn[::-1]
  assert [
    instructions.choose_instruction(INSTRUCTIONS, id, seed=2) for id in ids
  ] != drawn


def test_audio_replaces_the_transcript():
  audio = Audio(0)
  for instruction, _ in INSTRUCTIONS:
    content = instructions.fill_audio(instruction, audio)
    assert content.count(audio) == 1 and '' not in content
    joined = ''.join('hi {} there' if part == audio else part for part in content)
    assert joined == instructions.fill_text(instruction, 'hi {} there')
  assert instructions.fill_audio('{}', audio) == (audio,)
  assert instructions.fill_audio('Put {} into French.', audio)[2] == ' into French.'


@pytest.mark.parametrize(
  'weighted, parts',
  [
    ((), ["'{}'"]),
    ((('Continue', 1.0),), ["'Continue'", "'{}'", ' 0 ']),
    ((('{} or {}', 1.0),), ["'{} or {}'", "'{}'", ' 2 ']),
    ((('{}', 0.0),), ["'{}'", 'weight', ' 0.0', ' 0']),
    ((('{}', float('nan')),), ["'{}'", 'weight', ' nan', ' 0']),
  ],
)
def test_invalid_instructions_raise(weighted, parts):
  with pytest.raises(ValueError, match='targets.instructions') as raised:
    instructions.check_instructions(weighted)
  assert all(part in str(raised.value) for part in parts)
