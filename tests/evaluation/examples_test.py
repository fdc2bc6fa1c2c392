# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.examples import (
  Example,
  check_context_length,
  derange,
  make_cases,
  read_manifest,
)
from data_pipeline.corpora.utterance import Utterance


def example(number, cascade: str | None = 'fox', response: str | None = None):
  said = Utterance(f'u{number}', Path('x.wav'), 'a dog', response=response)
  clip = np.full((number + 1, 24), number, np.float32)
  return Example(said, clip, 'a day', cascade, (5, 2))


@given(st.integers(2, 300), st.integers(0, 9))
def test_a_derangement_leaves_nobody_in_place(count, seed):
  partners = derange(count, seed)
  assert sorted(partners) == list(range(count))
  assert all(partner != number for number, partner in enumerate(partners))
  assert partners == derange(count, seed)


def test_one_alone_has_nobody_to_swap_with(text):
  assert derange(1) is None
  assert 'shuffled_audio' not in make_cases(text, [example(0)])


def test_what_the_llm_is_given(text):
  examples = [example(number) for number in range(3)]
  cases = make_cases(text, examples)
  for number, mine in enumerate(examples):
    of = {name: group[number] for name, group in cases.items()}
    assert of['text'].prompt == text.prompt('a dog')
    assert of['cascade'].prompt == text.prompt('fox')
    assert of['cascade_ctc'].prompt == text.prompt('a day')
    assert of['no_prompt'].prompt == text.prompt('')
    assert of['audio'].prompt == of['shuffled_audio'].prompt == text.spoken()
    assert of['audio'].clip is mine.clip
    assert len(of['shuffled_audio'].clip) != len(mine.clip)
    assert of['text'].clip is None
    assert all(case.response == (5, 2) for case in of.values())


def test_there_may_be_no_cascade(text):
  cases = make_cases(text, [example(number, cascade=None) for number in range(2)])
  assert list(cases) == ['text', 'audio', 'cascade_ctc', 'shuffled_audio', 'no_prompt']


def test_what_cannot_be_used_is_named(manifest, add):
  add(id='empty', text='  ')
  add(id='mute', response=' ')
  add(id='away', audio_filepath='../x.wav')
  usable, bad = read_manifest(manifest, None)
  assert [item.id for item in usable] == [f'u{number}' for number in range(5)]
  assert [item.reason for item in bad[:2]] == ['text is empty', 'response is empty']
  assert 'line 8: audio_filepath' in bad[2].reason
  assert [item.id for item in read_manifest(manifest, 2)[0]] == ['u0', 'u1']


@pytest.mark.parametrize(
  'longest, context, response, blame',
  [
    (1, 100, None, None),
    (1, 20, None, 'text makes a prompt of'),
    (90, 100, None, 'audio makes a prompt of'),
    (1, 100, 'the quick brown fox ' * 40, 'text makes a prompt of'),
  ],
)
def test_prompt_and_response_must_fit(text, longest, context, response, blame):
  clip = np.zeros((longest, 24), np.float32)
  mine = example(0, response=response)
  if blame is None:
    check_context_length(mine, text, clip, context, 7)
    return
  with pytest.raises(ValueError, match=blame):
    check_context_length(mine, text, clip, context, 7)
