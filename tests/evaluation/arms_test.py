# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from acl_jax.evaluation.arms import (
  ARMS,
  available_arms,
  build_prompts,
  choose_partners,
)
from acl_jax.evaluation.heard_speech import HeardSpeech
from acl_jax.evaluation.tasks.task import Case, Speech, TaskTurn
from acl_jax.text.templates import Audio, Turn
from data_pipeline.corpora.utterance import Utterance


def said(text, degradation='', id=''):
  return Speech(Utterance(id or text, Path(f'{text}.wav'), text), degradation)


def case_of(*content, id=''):
  return Case(id or str(content), (TaskTurn('user', content),), 5)


def hear(speech, length):
  clip = np.full((length, 24), length, np.float32)
  text = speech.utterance.text
  return HeardSpeech(clip, f'own {text}', f'cascade {text}', [])


@pytest.fixture
def conversation():
  turns = (
    TaskTurn('user', ('Listen: ', said('the dog'))),
    TaskTurn('assistant', ('Yes.',)),
    TaskTurn('user', (said('a fox'), ' What?')),
  )
  return Case('c', turns, 5)


def test_what_stands_for_what_is_said(text, conversation):
  partner = case_of(said('the band'))
  speech = [*conversation.speech, *partner.speech]
  heard = {each: hear(each, 2 + i) for i, each in enumerate(speech)}
  prompts = build_prompts(text, conversation, partner, ARMS, heard)

  def prompt(first, second):
    return text.conversation_prompt(
      [
        Turn('user', ('Listen: ', first)),
        Turn('assistant', 'Yes.'),
        Turn('user', (second, ' What?')),
      ]
    )

  assert prompts['text'].prompt.prompt == prompt('the dog', 'a fox')
  assert prompts['cascade'].prompt.prompt == prompt('cascade the dog', 'cascade a fox')
  assert prompts['cascade_ctc'].prompt.prompt == prompt('own the dog', 'own a fox')
  assert prompts['no_audio'].prompt.prompt == prompt('', '')
  for arm, lengths in (('audio', [2, 3]), ('shuffled_audio', [4, 4])):
    assert prompts[arm].prompt.prompt == prompt(Audio(0), Audio(1))
    assert [len(clip) for clip in prompts[arm].prompt.clips] == lengths
    assert prompts[arm].heard == (None, None)
  assert prompts['text'].heard == ('the dog', 'a fox')
  assert prompts['cascade'].heard == ('cascade the dog', 'cascade a fox')
  assert prompts['no_audio'].heard == (None, None)
  for arm in ('text', 'cascade', 'cascade_ctc', 'no_audio'):
    assert not prompts[arm].prompt.clips


def test_one_clip_alone_is_the_audio_prompt(text):
  case = case_of(said('fox'))
  prompts = build_prompts(
    text, case, None, ['audio'], {case.speech[0]: hear(case.speech[0], 3)}
  )
  assert prompts['audio'].prompt.prompt == text.audio_prompt()


def test_the_wrong_words_are_clean_if_they_were_heard(text):
  case, noisy = case_of(said('a', 'pink')), case_of(said('b', 'pink'))
  heard = {case.speech[0]: hear(case.speech[0], 2), noisy.speech[0]: hear(said('b'), 3)}
  for length in (3, 4):
    prompts = build_prompts(text, case, noisy, ['shuffled_audio'], heard)
    [clip] = prompts['shuffled_audio'].prompt.clips
    assert len(clip) == length
    heard[said('b')] = hear(said('b'), 4)


def test_partners_say_something_else():
  noisy = [case_of(said(text, noise)) for text in 'abc' for noise in ('', 'pink')]
  other_voice = case_of(said('a', id='voice 2'))
  written = case_of('only text')
  cases = [*noisy, other_voice, written]
  partners = choose_partners(cases)
  assert partners[-1] == len(cases) - 1
  for case, partner in zip(cases[:-1], partners[:-1], strict=True):
    [mine], [theirs] = case.speech, cases[partner].speech
    assert mine.utterance.text != theirs.utterance.text
  for case, partner in zip(noisy[2:], partners[2:6], strict=True):
    assert cases[partner].speech[0].degradation == case.speech[0].degradation


def test_arms_that_cannot_be_answered():
  one = [case_of(said('a')), case_of(said('a', 'pink'))]
  assert available_arms(one, False, False) == ['text', 'audio', 'no_audio']
  two = [*one, case_of(said('b'))]
  assert available_arms(two, True, True) == [*ARMS]
