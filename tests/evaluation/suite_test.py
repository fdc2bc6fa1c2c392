# SPDX-License-Identifier: Apache-2.0
"""Tasks end to end, on the toy model."""

import json

import pytest

from acl_jax import evaluate as program
from acl_jax.assistant import Assistant
from acl_jax.evaluate import (
  Options,
  check_skipped,
  count_examples,
  evaluate,
  format_tasks,
)
from acl_jax.evaluation import answers, heard_speech, responses
from acl_jax.evaluation.arms import ARMS
from acl_jax.evaluation.cascade import Recogniser

pytestmark = pytest.mark.full  # compiles much

OPTIONS = ['the band', 'Paris', 'a good day']


class StubRecogniser(Recogniser):
  """Recognises the same in every utterance, and counts them."""

  sha256 = '0' * 64
  calls: list[int] = []

  def __init__(self, folder):
    pass

  def __call__(self, waveform, language='en'):
    self.calls.append(len(waveform))
    return 'the band'


def said(number, **fields):
  return {'audio_filepath': f'{number}.wav', 'text': f'What is {number}?'} | fields


LINES = [
  said(0, id='q0', answers=['Paris']),
  said(1, id='q1', answers=['song']),
  said(2, id='o2', options=OPTIONS, answer='C'),
  said(0, id='q3', answers=['quick']),
  {
    'id': 'c0',
    'answers': ['Paris'],
    'turns': [
      {'role': 'user', 'content': [{'text': 'the fox'}, said(3)]},
      {'role': 'assistant', 'content': 'the dog'},
      {'role': 'user', 'content': [said(4), said(0)]},
    ],
  },
  {'id': 'c1', 'answers': ['Paris'], 'turns': [{'role': 'user', 'content': [said(1)]}]},
]
SUITE = ['spoken_qa', 'conversation']


@pytest.fixture
def run(toy_config, manifest, tmp_path, monkeypatch):
  """Evaluates lines; the audio files are those of the plain manifest."""
  monkeypatch.setattr(program, 'Recogniser', StubRecogniser)
  monkeypatch.setattr(StubRecogniser, 'calls', [])

  def run(lines=LINES, output='out', **options):
    manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    options = {'checkpoint': str(tmp_path), 'cascade': str(tmp_path)} | options
    options = {'suite': SUITE} | options
    return evaluate(toy_config, manifest, tmp_path / output, Options(**options))

  return run


def read_cases(folder):
  return [*map(json.loads, (folder / 'cases.jsonl').read_text().splitlines())]


def test_report_and_cases(run, tmp_path):
  summary = run([*LINES, said(9, id='gone', answers=['x'])])
  assert summary == json.loads((tmp_path / 'out/report.json').read_text())
  assert list(summary) == ['model', 'skipped', 'tasks', 'without_speech']
  [skipped] = summary['skipped']
  assert skipped['id'] == 'gone' and '9.wav' in skipped['reason']
  assert count_examples(summary) == 6
  check_skipped(summary, 0.2, 'm')
  task = summary['tasks']['spoken_qa']
  assert task['cases'] == 4 and task['binary'] and task['metrics'][0] == 'correct'
  assert list(task['arms']) == [*ARMS]
  assert {group: each['cases'] for group, each in task['groups'].items()} == {
    'answers': 3,
    'options': 1,
  }
  for metrics in task['arms'].values():
    assert list(metrics) == list(task['metrics'])
    assert all(set(each) == {'value', 'low', 'high'} for each in metrics.values())
  assert list(task['groups']['options']['arms']['audio']) == [
    'correct',
    'letter',
    'likelihood',
  ]
  assert list(task['comparisons']) == [
    'audio - cascade',
    'audio - cascade_ctc',
    'audio - text',
  ]
  compared = task['comparisons']['audio - cascade']
  assert compared['metric'] == 'correct' and 0 <= compared['mcnemar_p'] <= 1
  cases = read_cases(tmp_path / 'out')
  assert [case['id'] for case in cases] == ['q0', 'q1', 'o2', 'q3', 'c0', 'c1']
  case = cases[4]
  assert (case['task'], case['group']) == ('conversation', 'aa')
  assert [turn['role'] for turn in case['turns']] == ['user', 'assistant', 'user']
  written, _, speech = case['turns'][0]['content']
  assert written == 'the fox'
  assert speech['text'] == 'What is 3?' and speech['audio'].endswith('/3.wav')
  assert speech['heard']['cascade'] == 'the band' and 'audio' in speech['heard']
  assert speech['tokens'] and set(speech['tokens'][0]) == {
    'text',
    'log_prob',
    'alternatives',
  }
  assert list(case['answers']) == [*ARMS]
  assert set(case['answers']['audio']['scores']) == {'contains', 'exact_match'}
  table = format_tasks(summary['tasks'])
  assert 'conversation: contains, 2 cases' in table and 'shuffled_audio' in table


def test_each_recording_is_heard_and_transcribed_once(run):
  run()
  assert sorted(StubRecogniser.calls) == [4_000 + 3_000 * index for index in range(5)]


def test_the_batch_answers_as_conversations_do_one_by_one(
  run, model, text, toy_config, tmp_path, monkeypatch
):
  run()
  assistant = Assistant(model, text)
  for case in read_cases(tmp_path / 'out')[:3]:
    [turn] = case['turns']
    [speech] = turn['content']
    options = {'max_new_tokens': 64}
    audio = assistant.answer(speech['audio'], **options)
    assert trim(case['answers']['audio']['text']) == trim(audio)
    written = assistant.answer(text=speech['text'], **options)
    assert trim(case['answers']['text']['text']) == trim(written)


def trim(text):
  """Remove the mark of a character that an answer ends within."""
  return text.strip().rstrip('\ufffd')


class Interrupted(Exception):
  """What stops a run."""


@pytest.mark.parametrize('stage', ['hear', 'answer', 'likelihoods'])
def test_an_interrupted_run_resumes(run, tmp_path, monkeypatch, stage):
  expected = run(output='whole')
  expected_cases = read_cases(tmp_path / 'whole')

  def interrupt(iterator):
    for number, item in enumerate(iterator):
      if number == 2:
        raise Interrupted
      yield item

  with monkeypatch.context() as patch:
    if stage == 'hear':
      hear_all = heard_speech.hear_all
      patch.setattr(heard_speech, 'hear_all', lambda *a: interrupt(hear_all(*a)))
    else:
      name = {'answer': 'generate_responses', 'likelihoods': 'score_continuations'}
      function = getattr(answers, name[stage])
      patch.setattr(answers, name[stage], lambda *a, **k: interrupt(function(*a, **k)))
    with pytest.raises(Interrupted):
      run()
  assert stage != 'hear' or len([*tmp_path.glob('out/cache/heard-*/*.npz')]) == 2
  engines = []
  make = responses.Engine
  monkeypatch.setattr(
    responses, 'Engine', lambda *a, **k: engines.append(1) or make(*a, **k)
  )
  resumed = run()
  assert resumed['tasks'] == expected['tasks']
  cases = read_cases(tmp_path / 'out')
  assert cases == expected_cases
  assert bool(engines) == (stage != 'likelihoods')


def test_without_cascade_and_with_one_case(run):
  summary = run(LINES[:1], cascade='none', suite=None)
  assert summary['examples'] == 1  # its fields also allow `modality`
  task = summary['tasks']['spoken_qa']
  assert list(task['arms']) == ['text', 'audio', 'cascade_ctc', 'no_audio']
  assert list(task['comparisons']) == ['audio - cascade_ctc', 'audio - text']
  assert task['arms']['text']['contains']['low'] is None


def test_a_conversation_that_does_not_fit_is_skipped(run):
  long = LINES[0] | {'id': 'long', 'text': 'the quick brown fox ' * 60}
  summary = run([*LINES, long])
  [skipped] = summary['skipped']
  assert skipped['id'] == 'long'
  assert 'the `text` prompt is' in skipped['reason'] and '220' in skipped['reason']


def test_babble_is_for_modality_alone(run):
  with pytest.raises(ValueError, match=r'--babble_snr=5 .* spoken_qa,conversation'):
    run(babble_snr=5.0)
