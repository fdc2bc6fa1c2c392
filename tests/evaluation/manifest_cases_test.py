# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from acl_jax.evaluation import manifest_cases
from acl_jax.evaluation.tasks.conversation import Conversation
from acl_jax.evaluation.tasks.instructions import Instructions
from acl_jax.evaluation.tasks.robustness import Robustness
from acl_jax.evaluation.tasks.spoken_qa import SpokenQA
from data_pipeline.corpora.utterance import Utterance

SAID = {'audio_filepath': 'q.wav', 'text': 'Who?'}
QUESTION = SAID | {'id': 'q', 'answers': ['me']}
TALK = {'id': 't', 'turns': [{'role': 'user', 'content': 'Who?'}], 'answers': ['me']}


@pytest.fixture
def write(tmp_path):
  def write(*lines, name='m.jsonl'):
    path = tmp_path / name
    path.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    return path

  return write


TASKS = {task.name: task for task in (SpokenQA(), Conversation())}


def select(path, suite, limit):
  return manifest_cases.select(path, suite, limit, TASKS)


def parse_suite(names):
  return manifest_cases.parse_suite(names, TASKS)


def ids(selection):
  return {name: [case.id for case in cases] for name, cases in selection.cases.items()}


def test_a_plain_manifest_is_for_modality_alone(write):
  selection = select(write(SAID, {'text': 'no audio'}), None, None)
  assert not selection.cases and not selection.bad
  first, second = selection.utterances
  assert isinstance(first, Utterance)
  assert second.reason.endswith('m.jsonl line 2: audio_filepath is missing')


def test_contained_manifests_refuse_audio_elsewhere(write, tmp_path):
  (tmp_path / 'far.wav').symlink_to('/etc/hostname')
  lines = [
    SAID | {'audio_filepath': 'far.wav', 'id': 'a'},
    QUESTION | {'audio_filepath': '/etc/hostname', 'id': 'b'},
    QUESTION,
  ]
  path = write(*lines)
  write(name='._m.jsonl').write_bytes(b'\0\5\x16\7')
  free = manifest_cases.select(tmp_path, None, None, TASKS)
  assert ids(free) == {'spoken_qa': ['b', 'q']} and not free.bad
  selection = manifest_cases.select(path, None, None, TASKS, contained=True)
  assert ids(selection) == {'spoken_qa': ['q']}
  (bad,) = selection.bad
  assert 'line 2: audio_filepath' in bad.reason and 'is outside' in bad.reason
  first, *_ = selection.utterances
  assert 'line 1: audio_filepath' in first.reason and 'is outside' in first.reason


def test_the_fields_choose_the_tasks(write):
  selection = select(write(SAID, QUESTION, TALK), None, None)
  assert ids(selection) == {'spoken_qa': ['q'], 'conversation': ['t']}
  assert [utterance.id for utterance in selection.utterances] == ['q', 'q']


def test_a_named_task_is_the_only_one(write):
  selection = select(write(QUESTION | {'task': 'spoken_qa'}), None, None)
  assert ids(selection) == {'spoken_qa': ['q']} and selection.utterances is None


def test_the_tasks_of_nemo_are_not_ours(write):
  selection = select(write(SAID | {'task': 'asr'}), None, None)
  assert len(selection.utterances) == 1 and not selection.bad


def test_parts_of_a_benchmark_and_variants_of_a_task_take_its_lines(write):
  class Part(SpokenQA):
    name = 'spoken_qa_short'

    def applies(self, entry):
      return entry.get('subset') == 'short'

  class Variant(SpokenQA):
    name, task = 'varied_spoken_qa', SpokenQA()

  tasks = {task.name: task for task in (SpokenQA(), Part(), Variant())}
  lines = [QUESTION | {'id': name, 'subset': name} for name in ('short', 'long')]
  path = write(*(line | {'task': 'spoken_qa'} for line in lines))
  assert ids(manifest_cases.select(path, None, None, tasks)) == {
    'spoken_qa': ['short', 'long'],
    'spoken_qa_short': ['short'],
    'varied_spoken_qa': ['short', 'long'],
  }


def test_the_suite_chooses_among_them(write, tmp_path):
  write(QUESTION, name='a.jsonl')
  write(TALK, name='b.jsonl')
  assert ids(select(tmp_path, ['conversation'], None)) == {'conversation': ['t']}
  assert select(tmp_path, ['conversation'], None).utterances is None
  both = select(tmp_path, ['conversation', 'spoken_qa'], None)
  assert ids(both) == {'spoken_qa': ['q'], 'conversation': ['t']}


def test_the_limit_counts_for_each_task(write):
  lines = [entry | {'id': f'{i}'} for i in range(4) for entry in (QUESTION, TALK)]
  expected = {'spoken_qa': ['0', '1', '2'], 'conversation': ['0', '1', '2']}
  assert ids(select(write(*lines), None, 3)) == expected


def test_the_limit_counts_in_each_manifest(write, tmp_path):
  for name in 'ab':
    write(*(QUESTION | {'id': f'{name}{i}'} for i in range(4)), name=f'{name}.jsonl')
  assert ids(select(tmp_path, None, 2)) == {'spoken_qa': ['a0', 'a1', 'b0', 'b1']}


def test_a_task_that_varies_another_is_named_alone(write):
  inner = Instructions()
  path = write({'audio_filepath': 'x.wav', 'text': 'x', 'constraints': []})
  tasks = {task.name: task for task in (inner, Robustness(inner))}
  selection = manifest_cases.select(path, None, None, tasks)
  [bad] = selection.bad
  assert bad.reason.count('(task ') == 1
  with pytest.raises(ValueError, match=r'objects \(task robustness_instructions\)$'):
    manifest_cases.select(path, ['robustness_instructions'], None, tasks)


def test_a_name_may_stand_for_several_tasks(write):
  tasks = {task.name: task for task in map(Robustness, TASKS.values())} | TASKS
  assert manifest_cases.parse_suite(['robustness'], tasks) == ['robustness']
  selection = manifest_cases.select(write(QUESTION), ['robustness'], None, tasks)
  [(name, cases)] = selection.cases.items()
  assert name == 'robustness_spoken_qa' and len(cases) == 19
  with pytest.raises(ValueError, match='no line can be used for the task robustness'):
    manifest_cases.select(write({'id': 'x'}), ['robustness'], None, tasks)


def test_bad_lines_name_file_line_task_and_field(write):
  path = write(
    QUESTION,
    QUESTION | {'id': 'r', 'answers': []},
    QUESTION,
    {'task': 'singing'},
    {'audio_filepath': 'x.wav', 'text': 'x'},
  )
  selection = select(path, ['spoken_qa'], None)
  assert ids(selection) == {'spoken_qa': ['q']}
  assert [bad.reason.removeprefix(f'{path} ') for bad in selection.bad] == [
    'line 2: answers has 0 strings; it must have 1 to 100 (task spoken_qa)',
    "line 3: id is 'q', as that of an earlier line (task spoken_qa)",
    "line 4: task is 'singing', which is not one of spoken_qa, conversation",
    'line 5: answers is missing (task spoken_qa)',
  ]


def test_lines_that_are_not_json_are_reported_once(write):
  path = write(QUESTION | {'task': 'spoken_qa'})
  path.write_text(path.read_text() + '{"x\n')
  for suite in (None, ['spoken_qa']):
    selection = select(path, suite, None)
    [bad] = selection.bad
    assert 'line 2: line is not JSON' in bad.reason and not selection.utterances


def test_impossible_suites(write, tmp_path):
  with pytest.raises(ValueError, match="--suite: 'x' is not one of modality, spoken"):
    parse_suite(['x'])
  assert parse_suite(None) is None and parse_suite(['modality']) == ['modality']
  path = write(QUESTION | {'answers': 3})
  with pytest.raises(ValueError, match=r'm\.jsonl: no line .* spoken_qa\..* line 1'):
    select(path, ['spoken_qa'], None)
  with pytest.raises(ValueError, match='task conversation'):
    select(write(QUESTION), ['spoken_qa', 'conversation'], None)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='has 0 manifests'):
    select(tmp_path / 'empty', None, None)
  with pytest.raises(FileNotFoundError, match='none.jsonl'):
    select(tmp_path / 'none.jsonl', None, None)
