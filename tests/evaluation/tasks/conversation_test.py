# SPDX-License-Identifier: Apache-2.0
import pytest

from acl_jax.evaluation.tasks.conversation import Conversation
from acl_jax.evaluation.tasks.task import Answer, Speech
from data_pipeline.corpora.manifest import LineError

TASK = Conversation()
SAID = {'audio_filepath': 'a/1.wav', 'text': 'My dog is Rex.'}
TURNS = [
  {'role': 'system', 'content': 'Be brief.'},
  {'role': 'user', 'content': [{'text': 'Listen:'}, SAID]},
  {'role': 'assistant', 'content': 'Nice!'},
  {'role': 'user', 'content': 'What is his name?'},
]
LINE = {'turns': TURNS, 'answers': ['Rex']}


def test_turns_of_text_and_audio(tmp_path):
  [case] = TASK.parse(LINE | {'id': 'c1', 'pattern': 'at'}, tmp_path)
  assert TASK.applies(LINE)
  assert (case.id, case.group) == ('c1', 'at')
  assert [turn.role for turn in case.turns] == ['system', 'user', 'assistant', 'user']
  written, space, speech = case.turns[1].content
  assert (written, space) == ('Listen:', ' ')
  assert isinstance(speech, Speech)
  assert speech.utterance.audio_filepath == tmp_path / 'a/1.wav'
  scores = TASK.score(case, Answer("It's Rex!"))
  assert scores == {'contains': 1, 'exact_match': 0}


def test_ids_of_conversations_without_one_differ(tmp_path):
  [one] = TASK.parse(LINE, tmp_path)
  [two] = TASK.parse(LINE | {'turns': TURNS[1:]}, tmp_path)
  assert one.id != two.id


def change_last(**fields):
  return {'turns': [*TURNS[:-1], TURNS[-1] | fields]}


@pytest.mark.parametrize(
  'change, error',
  [
    ({'turns': []}, 'turns is'),
    ({'turns': TURNS[:3]}, "turns ends with 'assistant'"),
    ({'turns': ['x', TURNS[1]]}, r'turns\[0\] is'),
    ({'answers': []}, 'answers has 0'),
    ({'pattern': 'ta'}, "pattern is 'ta'; that of the turns is 'at'"),
    (change_last(role='bot'), r"turns\[3\].role is 'bot'"),
    (change_last(role='assistant', content=[SAID]), r'turns\[3\].content has audio'),
    (change_last(content=''), r'turns\[3\].content.text is empty'),
    (change_last(content=[{'text': 'x'}, {}]), r'turns\[3\].content\[1\].text'),
    (
      change_last(content=[{'audio_filepath': 'x.wav'}]),
      r'turns\[3\].content\[0\].text is missing',
    ),
    (change_last(content=7), r'turns\[3\].content is 7'),
  ],
)
def test_bad_fields_are_named(change, error, tmp_path):
  with pytest.raises(LineError, match=error):
    TASK.parse(LINE | change, tmp_path)
