# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.examples import (
  Example,
  check_context_length,
  make_prompt_cases,
  random_derangement,
  read_manifest,
)
from data_pipeline.corpora.utterance import Utterance


def make_example(index, cascade: str | None = 'fox', response: str | None = None):
  utterance = Utterance(f'u{index}', Path('x.wav'), 'a dog', response=response)
  clip = np.full((index + 1, 24), index, np.float32)
  return Example(utterance, clip, 'a day', cascade, (5, 2))


@given(st.integers(2, 300), st.integers(0, 9))
def test_a_derangement_has_no_fixed_points(count, seed):
  derangement = random_derangement(count, seed)
  assert sorted(derangement) == list(range(count))
  assert all(partner != index for index, partner in enumerate(derangement))
  assert derangement == random_derangement(count, seed)


def test_a_single_example_is_not_shuffled(text):
  assert random_derangement(1) is None
  assert 'shuffled_audio' not in make_prompt_cases(text, [make_example(0)])


def test_prompts_of_each_condition(text):
  examples = [make_example(index) for index in range(3)]
  cases_by_condition = make_prompt_cases(text, examples)
  for index, example in enumerate(examples):
    cases = {name: group[index] for name, group in cases_by_condition.items()}
    assert cases['text'].prompt == text.prompt('a dog')
    assert cases['cascade'].prompt == text.prompt('fox')
    assert cases['cascade_ctc'].prompt == text.prompt('a day')
    assert cases['no_prompt'].prompt == text.prompt('')
    assert cases['audio'].prompt == text.audio_prompt()
    assert cases['shuffled_audio'].prompt == text.audio_prompt()
    assert cases['audio'].clips[0] is example.clip
    assert len(cases['shuffled_audio'].clips[0]) != len(example.clip)
    assert not cases['text'].clips
    assert all(case.response == (5, 2) for case in cases.values())


def test_the_cascade_is_optional(text):
  examples = [make_example(index, cascade=None) for index in range(2)]
  cases = make_prompt_cases(text, examples)
  assert list(cases) == ['text', 'audio', 'cascade_ctc', 'shuffled_audio', 'no_prompt']


def test_unusable_entries_are_returned_with_reasons(manifest, add_entry):
  add_entry(id='empty', text='  ')
  add_entry(id='mute', response=' ')
  add_entry(id='away', audio_filepath='../x.wav')
  usable, bad = read_manifest(manifest, None)
  assert [utterance.id for utterance in usable] == [f'u{index}' for index in range(5)]
  assert [item.reason for item in bad[:2]] == ['text is empty', 'response is empty']
  assert 'line 8: audio_filepath' in bad[2].reason
  assert [utterance.id for utterance in read_manifest(manifest, 2)[0]] == ['u0', 'u1']


def test_absolute_audio_paths(add_entry, manifest, tmp_path_factory):
  outside = tmp_path_factory.mktemp('elsewhere') / 'far.wav'
  inside = manifest.parent / '1.wav'
  for path in (outside, inside):
    add_entry(audio_filepath=str(path))
  usable, bad = read_manifest(manifest, None)
  assert not bad
  assert [utterance.audio_filepath for utterance in usable[5:]] == [outside, inside]


@pytest.mark.parametrize(
  'clip_length, context, response, error',
  [
    (1, 100, None, None),
    (1, 20, None, r'`text`.*limit is 13\b.*context of 20\b'),
    (90, 100, None, r'`audio`.*limit is 93\b.*context of 100\b'),
    (1, 100, 'the quick brown fox ' * 40, r'`text`.*context of 100\b'),
  ],
)
def test_prompt_and_response_must_fit_the_context(
  text, clip_length, context, response, error
):
  clip = np.zeros((clip_length, 24), np.float32)
  example = make_example(0, response=response)
  if error is None:
    check_context_length(example, text, clip, context, 7)
    return
  with pytest.raises(ValueError, match=error):
    check_context_length(example, text, clip, context, 7)
