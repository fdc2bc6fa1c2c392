# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.scoring import learned
from acl_jax.evaluation.tasks.instructions import Instructions
from acl_jax.evaluation.tasks.refusals import REFUSALS, Refusals, is_refusal
from acl_jax.evaluation.tasks.summarisation import Summarisation
from acl_jax.evaluation.tasks.task import Answer, Speech
from acl_jax.evaluation.tasks.translation import Translation
from data_pipeline.corpora.manifest import LineError

SAID = {'audio_filepath': 'a.wav', 'text': 'Guten Tag.', 'id': 'x'}
LINES = {
  Translation(): {**SAID, 'lang': 'de', 'target_lang': 'en', 'reference': 'Hello.'},
  Summarisation(): {**SAID, 'task': 'summarisation', 'reference': 'A greeting.'},
  Instructions(): {**SAID, 'constraints': [{'kind': 'no_commas'}]},
  Refusals(): {**SAID, 'task': 'refusals'},
}
TASKS = st.sampled_from([*LINES])


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
  monkeypatch.setattr(learned, 'COMET_IS_INSTALLED', False)
  monkeypatch.setattr(learned, 'BERT_SCORE_IS_INSTALLED', False)


def parse(task, folder, **changes):
  (case,) = task.parse({**LINES[task], **changes}, folder.resolve())
  return case


def shape(case):
  """Return what the last turn contains: text, or what is spoken."""
  (turn,) = case.turns
  assert turn.role == 'user'
  return [p.utterance.text if isinstance(p, Speech) else p for p in turn.content]


@pytest.mark.parametrize('task', LINES, ids=lambda task: task.name)
def test_a_line_is_of_one_task_alone(task):
  assert [each.name for each in LINES if each.applies(LINES[task])] == [task.name]
  assert not any(each.applies(SAID) for each in LINES)


@pytest.mark.parametrize('task', LINES, ids=lambda task: task.name)
def test_what_is_expected_is_json(task, tmp_path):
  expected = parse(task, tmp_path).expected
  assert json.loads(json.dumps(expected)) == expected


@pytest.mark.parametrize(
  ('name', 'changes', 'field', 'problem'),
  [
    *(
      (task.name, changes, field, problem)
      for task in LINES
      for changes, field, problem in [
        ({'audio_filepath': None}, 'audio_filepath', 'is missing'),
        ({'audio_filepath': '../a.wav'}, 'audio_filepath', 'outside'),
        ({'text': None}, 'text', 'is missing'),
        ({'text': ' '}, 'text', 'is empty'),
        ({'text': 3}, 'text', 'not a string'),
      ]
    ),
    ('translation', {'lang': None}, 'lang', 'is missing'),
    ('translation', {'lang': 'klingon'}, 'lang', "'klingon'"),
    ('translation', {'target_lang': 'th'}, 'target_lang', 'Thai.*no tokeniser'),
    ('translation', {'target_lang': 'de-AT'}, 'target_lang', "'de', as is lang"),
    ('translation', {'reference': ''}, 'reference', 'is empty'),
    ('translation', {'reference': 'x' * 10_001}, 'reference', 'the limit'),
    ('translation', {'position': 'middle'}, 'position', "'before' or 'after'"),
    ('translation', {'instruction': ' '}, 'instruction', 'is empty'),
    ('summarisation', {'reference': ' '}, 'reference', 'is empty'),
    ('summarisation', {'reference': 'Привет'}, 'reference', 'no word'),
    ('summarisation', {'position': 1}, 'position', "'before' or 'after'"),
    ('instructions', {'constraints': None}, 'constraints', 'is missing'),
    ('instructions', {'constraints': []}, 'constraints', 'list of 1 to 20'),
    ('instructions', {'constraints': [{}]}, 'kind', 'not a constraint'),
  ],
)
def test_a_bad_field_is_named_with_its_task(name, changes, field, problem, tmp_path):
  (task,) = (task for task in LINES if task.name == name)
  with pytest.raises(LineError, match=problem) as caught:
    parse(task, tmp_path, **changes)
  assert caught.value.field == field
  assert str(caught.value).startswith(f'{field} ')
  assert str(caught.value).endswith(f'(task {name})')


def test_a_tokeniser_that_is_not_installed_is_named(tmp_path, monkeypatch):
  def check(lang):
    raise RuntimeError

  monkeypatch.setattr('acl_jax.evaluation.scoring.overlap.check_tokeniser', check)
  with pytest.raises(LineError, match=r'Japanese.*sacrebleu\[ja\]'):
    parse(Translation(), tmp_path, target_lang='ja')


@given(task=TASKS, text=st.text(max_size=40))
def test_any_answer_has_all_scores_within_bounds(task, text, tmp_path_factory):
  case = parse(task, tmp_path_factory.getbasetemp())
  answer = Answer(text)
  scores = {**task.score(case, answer), **task.pool([case], [answer])}
  assert scores.keys() == {*task.metrics}
  for name, score in scores.items():
    high = 100 if name in ('bleu', 'chrf') else 20 if name == 'length_ratio' else 1
    assert 0 <= score <= high + 1e-9
  if task.binary:
    assert scores[task.metrics[0]] in (0, 1)


def test_the_instruction_to_translate_comes_before_or_after(tmp_path):
  task = Translation()
  before = shape(parse(task, tmp_path, position='before'))
  after = shape(parse(task, tmp_path, position='after'))
  assert before == [before[0], 'Guten Tag.'] and before[0].endswith('\n')
  assert 'following from German into English' in before[0]
  assert after == ['Guten Tag.', after[1]] and after[1].startswith('\n')
  assert 'above from German into English' in after[1]
  own = shape(parse(task, tmp_path, position='before', instruction='Auf Englisch:'))
  assert own == ['Auf Englisch:\n', 'Guten Tag.']


def test_without_a_position_half_of_the_ids_have_either(tmp_path):
  cases = [parse(Translation(), tmp_path, id=f'id{n}') for n in range(100)]
  first = [shape(case)[0] == 'Guten Tag.' for case in cases]
  assert 30 < sum(first) < 70
  assert parse(Translation(), tmp_path, id='id7') == cases[7]


def test_translations_are_pooled_by_corpus(tmp_path):
  task, answers, references = Translation(), [], []
  cases = []
  for n, (answer, reference) in enumerate(
    [('the cat sat on a mat', 'the cat sat on the mat'), ('hello', 'good day to you')]
  ):
    cases.append(parse(task, tmp_path, id=str(n), reference=reference))
    answers.append(Answer(answer))
    references.append(reference)
  scores = task.pool(cases, answers)
  theirs = sacrebleu.corpus_bleu([a.text for a in answers], [references])
  assert scores['bleu'] == pytest.approx(theirs.score)
  assert cases[0].group == 'de-en'
  assert task.pool([], []) == {} and task.score(cases[0], answers[0]) == {}
  assert 'tok:13a' in task.signature


def test_what_is_not_installed_is_left_out_and_reported(tmp_path, monkeypatch):
  task = Translation()
  assert task.left_out and 'unbabel-comet' in task.left_out[0]
  assert Summarisation().left_out
  monkeypatch.setattr(learned, 'COMET_IS_INSTALLED', True)
  scores = learned.CachedScores(lambda rows: [float(len(row[0])) for row in rows])
  monkeypatch.setattr(learned, 'comet', lambda: scores)
  case = parse(task, tmp_path)
  assert task.left_out == () and task.metrics[-1] == 'comet'
  assert task.pool([case], [Answer('Hi.')])['comet'] == len('Guten Tag.')


def test_a_summary_without_a_reference_is_compared_with_the_text_answer(tmp_path):
  task = Summarisation()
  case = parse(task, tmp_path, reference=None)
  assert case.group == 'text answer' and case.expected is None
  with pytest.raises(ValueError, match='has no reference'):
    task.score(case, Answer('a'))
  compared = task.expected_from(case, Answer('it is a greeting'))
  assert task.score(compared, Answer('it is a greeting')) == {'rouge_l': 1}
  assert task.pool([compared], [Answer('a greeting')])['length_ratio'] == 0.5
  other = task.expected_from(parse(task, tmp_path), Answer('other'))
  assert other.expected == 'A greeting.'


def test_instructions_count_prompts_and_constraints(tmp_path):
  task = Instructions()
  three = [{'kind': 'no_commas'}, {'kind': 'num_words', 'at_most': 1}, {'kind': 'json'}]
  several = parse(task, tmp_path, constraints=three)
  single = parse(task, tmp_path, constraints=[{'kind': 'json'}])
  assert (several.group, single.group) == ('several', 'json')
  answers = [Answer('yes'), Answer('Sure!\n[1]')]
  assert task.score(several, answers[0]) == {'prompt_strict': 0, 'prompt_loose': 0}
  assert task.score(single, answers[1]) == {'prompt_strict': 0, 'prompt_loose': 1}
  pooled = task.pool([several, single], answers)
  assert pooled == {'instruction_strict': 2 / 4, 'instruction_loose': 3 / 4}


def test_an_answer_may_be_as_long_as_it_must_be(tmp_path):
  lengths = [
    parse(
      Instructions(), tmp_path, constraints=[{'kind': 'num_words', 'at_least': n}]
    ).max_new_tokens
    for n in (5, 300, 9_000)
  ]
  assert lengths == [256, 600, 1_024]


@pytest.mark.parametrize(
  ('text', 'refused'),
  [
    ("I'm sorry, but I can't help with that.", True),
    ('I CANNOT do that', True),
    ('That would be Illegal.', True),
    ('  ', True),
    ('First, buy a hammer.', False),
    ('As a matter of fact, here is how.', False),
    ('I can’t say', False),  # only some phrases have a curly apostrophe
    ('I’m sorry', True),
  ],
)
def test_refusals_are_voicebenchs(text, refused):
  assert is_refusal(text) == refused


def test_each_substring_alone_is_a_refusal_and_none_contains_another():
  for substring in REFUSALS:
    assert is_refusal(f'xx{substring.upper()}yy'.replace('’T', '’t'))
    others = [other.lower() for other in REFUSALS if other != substring]
    assert not any(other in substring.lower() for other in others), substring


def test_the_list_may_be_another(tmp_path):
  task = dataclasses.replace(Refusals(), substrings=('nein',))
  case = parse(Refusals(), tmp_path)
  assert task.score(case, Answer('Nein!')) == {'refused': 1}
  assert task.score(case, Answer('Sorry')) == {'refused': 0}
