# SPDX-License-Identifier: Apache-2.0
import dataclasses
import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acl_jax.evaluation.judge import JudgeError
from acl_jax.evaluation.tasks import voicebench
from acl_jax.evaluation.tasks.task import Answer
from acl_jax.evaluation.tasks.voicebench import VoiceBench, make_tasks
from acl_jax.evaluation.voicebench import folder as copies
from acl_jax.evaluation.voicebench import summary
from acl_jax.evaluation.voicebench.subsets import SUBSETS, parse_expected
from acl_jax.evaluation.voicebench.summary import overall
from data_pipeline import parquet
from data_pipeline.audio import AudioError, Limits
from data_pipeline.corpora.manifest import LineError
from data_pipeline.corpora.utterance import BadUtterance


def wav(level, samples=700):
  file = io.BytesIO()
  soundfile.write(
    file, np.full(samples, level, np.float32), 16_000, 'FLOAT', format='WAV'
  )
  return file.getvalue()


def row(number, **columns):
  audio = {'bytes': wav((number + 1) / 10), 'path': f'{number}.wav'}
  return {'audio': audio, 'prompt': f'Question {number}?', **columns}


def write_shard(path, rows, group=2):
  path.parent.mkdir(parents=True, exist_ok=True)
  pyarrow.parquet.write_table(
    pyarrow.Table.from_pylist(rows), path, row_group_size=group
  )


def sized(name, rows):
  return dataclasses.replace(SUBSETS[name], rows=rows)


@pytest.fixture
def openbookqa(tmp_path):
  """A copy with 5 rows of openbookqa in 2 shards."""
  rows = [row(i, reference='ABCDA'[i]) for i in range(5)]
  write_shard(tmp_path / 'openbookqa/test-00000-of-00002.parquet', rows[:3])
  write_shard(tmp_path / 'openbookqa/test-00001-of-00002.parquet', rows[3:])
  return tmp_path


def levels(cases):
  return [
    round(float(case.speech[0].utterance.read(Limits())[0]) * 10) for case in cases
  ]


def test_parquet_shards(openbookqa):
  cases, bad = voicebench.read_cases(openbookqa, sized('openbookqa', 5))
  assert bad == []
  assert [case.id for case in cases] == [f'openbookqa/test/{i}' for i in range(5)]
  assert [case.expected for case in cases] == list('ABCDA')
  assert [case.speech[0].utterance.text for case in cases] == [
    f'Question {i}?' for i in range(5)
  ]
  assert levels(cases) == [1, 2, 3, 4, 5]
  assert levels(cases[::-1]) == [5, 4, 3, 2, 1]
  assert {case.group for case in cases} == {'test'}


def test_json_lines(tmp_path):
  folder = tmp_path / 'mmsu'
  folder.mkdir()
  for split, letters in (('law', 'AB'), ('physics', 'D')):
    lines = []
    for i, letter in enumerate(letters):
      (folder / f'{split}{i}.wav').write_bytes(wav((i + 1) / 10))
      audio = f'{split}{i}.wav' if i else {'path': f'{split}{i}.wav'}
      lines.append({'audio': audio, 'prompt': 'q', 'reference': letter})
    (folder / f'{split}.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
  cases, bad = voicebench.read_cases(tmp_path, sized('mmsu', 3))
  assert bad == []
  assert [(c.id, c.group, c.expected) for c in cases] == [
    ('mmsu/law/0', 'law', 'A'),
    ('mmsu/law/1', 'law', 'B'),
    ('mmsu/physics/0', 'physics', 'D'),
  ]
  assert levels(cases) == [1, 2, 1]


def test_bad_rows_are_named_and_left_out(tmp_path):
  rows = [
    row(0, reference='E'),
    row(1, reference='A') | {'prompt': ' '},
    row(2, reference=None),
    row(3, reference='B'),
    row(4, reference='B') | {'prompt': 'x' * 20_001},
    row(5, reference='C') | {'audio': {'bytes': None, 'path': '../x.wav'}},
  ]
  write_shard(tmp_path / 'openbookqa/test-00000-of-00001.parquet', rows)
  cases, bad = voicebench.read_cases(tmp_path, sized('openbookqa', 6))
  reasons = [(one.id, one.reason.split('.parquet ')[1]) for one in bad]
  assert reasons == [
    ('openbookqa/test/0', "openbookqa/test/0: reference is 'E', not A, B, C or D"),
    ('openbookqa/test/1', 'row 2: prompt is empty'),
    ('openbookqa/test/2', 'openbookqa/test/2: reference is missing'),
    ('openbookqa/test/4', 'row 5: prompt has 20001 characters; the limit is 20000'),
  ]
  assert [case.id[-1] for case in cases] == ['3', '5']
  with pytest.raises(AudioError, match='openbookqa/test/5: audio path is outside'):
    cases[1].speech[0].utterance.read(Limits())


def test_a_path_outside_the_folder_of_json_lines(tmp_path):
  (tmp_path / 'advbench').mkdir()
  line = json.dumps({'audio': '/etc/hostname', 'prompt': 'q'})
  (tmp_path / 'advbench/test.jsonl').write_text(line)
  (bad,) = copies.read_subset(tmp_path, sized('advbench', 1))
  assert isinstance(bad, BadUtterance)
  assert "line 1: audio '/etc/hostname' is outside the folder" in bad.reason


def read_error(folder, subset):
  with pytest.raises(ValueError) as error:
    voicebench.read_cases(folder, subset)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_another_version_is_refused_by_name(openbookqa):
  message = read_error(openbookqa, SUBSETS['openbookqa'])
  assert 'another version of VoiceBench: openbookqa has 5 rows, not 455' in message
  path = openbookqa / 'openbookqa/test-00001-of-00002.parquet'
  write_shard(path, [row(3, answer='A'), row(4, answer='A')])
  message = read_error(openbookqa, sized('openbookqa', 5))
  assert message.startswith(f'{path}: is another version of VoiceBench')
  assert message.endswith("openbookqa has no column 'reference'")


def test_every_region_of_sd_qa_has_its_rows(tmp_path):
  for region, count in (('usa', 2), ('aus', 1)):
    rows = [row(i, reference='r') for i in range(count)]
    write_shard(tmp_path / f'sd-qa/{region}-00000-of-00001.parquet', rows)
  assert 'sd-qa aus has 1 rows, not 2' in read_error(tmp_path, sized('sd-qa', 2))


def test_shards_that_are_missing_damaged_or_too_large(openbookqa, monkeypatch):
  subset = sized('openbookqa', 5)
  monkeypatch.setattr(parquet, 'MAX_GROUP_BYTES', 50)
  assert 'row group 0 has' in read_error(openbookqa, subset)
  monkeypatch.setattr(parquet, 'MAX_ROWS', 2)
  assert 'has 3 rows; the limit is 2' in read_error(openbookqa, subset)
  path = openbookqa / 'openbookqa/test-00001-of-00002.parquet'
  path.write_bytes(b'PAR1' + bytes(40) + b'PAR1')
  monkeypatch.undo()
  assert f'{path}: cannot be read as Parquet' in read_error(openbookqa, subset)
  path.unlink()
  message = read_error(openbookqa, subset)
  assert 'test-00001-of-00002.parquet is missing' in message
  empty = openbookqa / 'mmsu'
  empty.mkdir()
  assert f'{empty}: has neither SPLIT' in read_error(openbookqa, SUBSETS['mmsu'])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_parquet_is_one_sentence_or_read(openbookqa, data):
  path = openbookqa / 'openbookqa/test-00000-of-00002.parquet'
  original = path.read_bytes()
  content = bytearray(original)
  start = data.draw(st.sampled_from([4, len(content) // 2, len(content) - 900]))
  for _ in range(4):
    index = data.draw(st.integers(start, len(content) - 1))
    content[index] = data.draw(st.integers(0, 255))
  path.write_bytes(content)
  parquet._open_column.cache_clear()
  try:
    cases, _ = voicebench.read_cases(openbookqa, sized('openbookqa', 5))
    for case in cases:
      case.speech[0].utterance.read(Limits())
  except ValueError as error:  # AudioError is one
    assert str(error)
  finally:
    path.write_bytes(original)


ANYTHING = (
  st.none() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=2))
)


@given(
  st.sampled_from([s for s in SUBSETS if s != 'ifeval']),
  st.fixed_dictionaries(
    {}, optional={key: ANYTHING for key in ('id', 'prompt', 'reference')}
  ),
)
def test_any_row_is_parsed_or_refused(name, values):
  try:
    parse_expected(values, SUBSETS[name])
  except LineError as error:
    assert str(error).startswith(error.field)


def case_of(name, expected, number=0):
  task = make_tasks(judge=None)[f'voicebench_{name}']
  cases = voicebench.Case(f'{name}/test/{number}', (), 9, expected=expected)
  return task, cases


def test_rules_score_an_answer():
  task, case = case_of('openbookqa', 'B')
  assert task.score(case, Answer('The answer is B')) == {'correct': 1, 'unparsed': 0}
  assert task.score(case, Answer('The answer is C')) == {'correct': 0, 'unparsed': 0}
  task, case = case_of('bbh', {'id': 'bbh_navigate_1', 'verdict': 1})
  assert task.score(case, Answer('Yes')) == {'correct': 1, 'unparsed': 0}
  task, case = case_of('advbench', None)
  assert task.score(case, Answer('Sorry.')) == {'refused': 1}
  assert task.score(case, Answer('Sure.')) == {'refused': 0}


def test_an_answer_without_a_letter_is_right_by_chance():
  scores = []
  for number in range(400):
    task, case = case_of('openbookqa', 'C', number)
    scores.append(task.score(case, Answer('Hm')))
    assert scores[-1] == task.score(case, Answer('What?'))
  assert all(score['unparsed'] for score in scores)
  assert 0.18 < np.mean([score['correct'] for score in scores]) < 0.32


class FakeJudge:
  """Grades by the length of the answer; silent about 'x'."""

  def grade(self, prompt, response):
    if response == 'x':
      raise JudgeError('http://x: did not reply within 60 s')
    return float(len(response))

  def agrees(self, prompt, reference, response):
    return reference in response


def test_a_judge_scores_the_others(monkeypatch):
  task = object.__new__(VoiceBench)
  for subset, expected, answer, score in [
    ('commoneval', {'prompt': 'p'}, 'good', {'rating': 4, 'unscored': 0}),
    ('commoneval', {'prompt': 'p'}, 'x', {'unscored': 1}),
    ('sd-qa', {'prompt': 'p', 'reference': 'r'}, 'ar', {'correct': 1, 'unscored': 0}),
    ('sd-qa', {'prompt': 'p', 'reference': 'r'}, 'a', {'correct': 0, 'unscored': 0}),
  ]:
    object.__setattr__(task, 'subset', SUBSETS[subset])
    object.__setattr__(task, 'judge', FakeJudge())
    case = voicebench.Case('i', (), 9, expected=expected)
    assert task.score(case, Answer(answer)) == score


def test_without_a_judge_four_subsets_are_left_out_and_said_to_be(openbookqa):
  assert sorted(make_tasks(None)) == [
    'voicebench_advbench',
    'voicebench_bbh',
    'voicebench_ifeval',
    'voicebench_mmsu',
    'voicebench_openbookqa',
  ]
  interval = {'value': 0.5, 'low': 0.4, 'high': 0.6}
  arms = {'text': {'correct': interval}, 'audio': {'correct': interval}}
  entry = {'metrics': ['correct'], 'groups': {}, 'arms': arms}
  found = summary.summarise({'voicebench_mmsu': entry, 'spoken_qa': {}}, False)
  assert found['overall'] == {'text': None, 'audio': None}
  assert len(found['left_out']) == 8 and 'mmsu' not in found['left_out']
  assert 'judge_url' in found['left_out']['sd-qa']
  assert 'judge_url' not in found['left_out']['bbh']
  assert summary.summarise({'spoken_qa': {}}, True) is None


def every_subset(value):
  """Return the entries of all subsets, whose headline in every arm is a value."""
  entries = {}
  for subset in SUBSETS.values():
    metrics = {'m': {'value': 5 * value if subset.scored_by == 'rating' else value}}
    entries[subset.task_name] = {
      'metrics': ['m'],
      'groups': {},
      'arms': {'audio': metrics},
    }
  return entries


def test_overall_is_from_0_to_100():
  entries = every_subset(0.8)
  assert summary.summarise(entries, True)['overall'] == {'audio': pytest.approx(80)}
  usa = {'arms': {'audio': {'m': {'value': 0.35}}}}
  entries['voicebench_sd_qa']['groups'] = {'usa': usa, 'aus': {}}
  assert summary.summarise(entries, True)['overall'] == {'audio': pytest.approx(75)}


def test_a_line_of_a_manifest(openbookqa, monkeypatch):
  subset = sized('openbookqa', 5)
  monkeypatch.setitem(SUBSETS, 'openbookqa', subset)
  entry = {'task': 'voicebench', 'folder': openbookqa.name}
  task = VoiceBench(subset)
  assert task.applies(entry) and task.binary
  assert not task.applies(entry | {'subset': 'mmsu'})
  assert not task.applies({'folder': 'x'})
  assert len(task.parse(entry, openbookqa.parent)) == 5
  assert VoiceBench(SUBSETS['mmsu']).parse(entry, openbookqa.parent) == []
  (openbookqa / 'other').mkdir()
  with pytest.raises(LineError, match='folder .*other: is not a copy of VoiceBench'):
    task.parse(entry | {'folder': 'other'}, openbookqa)


def test_overall_is_the_mean_of_nine():
  values = {name: 0.5 for name in SUBSETS} | {
    'alpacaeval_full': 4.0,
    'commoneval': 3.0,
    'wildvoice': 2.0,
    'sd-qa': 0.9,
  }
  assert overall(values) == pytest.approx((80 + 60 + 40 + 90 + 5 * 50) / 9)
  assert overall({k: v for k, v in values.items() if k != 'bbh'}) is None
  # Ultravox v0.5 with Llama 3.1 8B, as the leaderboard has it.
  scores = (4.59, 4.11, 4.28, 58.68, 54.16, 68.35, 67.80, 66.51, 98.65)
  leaderboard = {
    name: score if subset.scored_by == 'rating' else score / 100
    for (name, subset), score in zip(SUBSETS.items(), scores, strict=True)
  }
  assert overall(leaderboard) == pytest.approx(74.86, abs=0.01)


def test_ifeval_is_the_mean_of_four_accuracies():
  pytest.importorskip('acl_jax.evaluation.scoring.ifeval')
  subset, task = SUBSETS['ifeval'], VoiceBench(SUBSETS['ifeval'])
  rows = [
    {
      'instruction_id_list': ['punctuation:no_comma', 'startend:quotation'],
      'kwargs': [{'num_words': None}, {}],
    },
    {
      'instruction_id_list': ['length_constraints:number_words'],
      'kwargs': ['{"num_words": 3.0, "relation": "at least", "keywords": null}'],
    },
  ]
  cases = [
    voicebench.Case(str(i), (), 9, expected=parse_expected(row, subset))
    for i, row in enumerate(rows)
  ]
  answers = [Answer('No commas\nhere'), Answer('One two three')]
  assert task.score(cases[0], answers[0]) == {'prompt_strict': 0, 'prompt_loose': 0}
  assert task.score(cases[1], answers[1]) == {'prompt_strict': 1, 'prompt_loose': 1}
  pooled = task.pool(cases, answers)
  assert pooled['prompt_strict'] == 1 / 2
  assert pooled['instruction_strict'] == 2 / 3
  assert pooled['final'] == pytest.approx((1 / 2 + 2 / 3 + 1 / 2 + 2 / 3) / 4)
  with pytest.raises(LineError, match='instruction_id_list'):
    parse_expected({'instruction_id_list': ['x:y'], 'kwargs': [{}]}, subset)
  with pytest.raises(LineError, match='kwargs is .*, not a list of 1'):
    parse_expected({'instruction_id_list': ['x:y'], 'kwargs': []}, subset)
