# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation import case_records, page_examples
from acl_jax.evaluation.case_records import SpokenPart, Token, read_cases
from acl_jax.evaluation.heard_words import split_words
from tests.evaluation.measured_tasks import make_case, make_tasks, write_folder


def write_lines(folder, *lines):
  texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
  (folder / 'cases.jsonl').write_text('\n'.join(texts))
  return folder


CASE = make_case('spoken_qa', 3, {'text'})


@pytest.mark.parametrize(
  'line',
  [
    '{',
    '[]',
    '7',
    '[' * 3_000,
    {'task': 'spoken_qa'},
    CASE | {'id': 7},
    CASE | {'turns': [{'role': 'user', 'content': [{'audio': 'a.wav'}]}]},
    CASE | {'turns': [{'role': 'user', 'content': 3}]},
    CASE | {'answers': {'audio': 'yes'}},
    CASE | {'answers': {'audio': {'text': 'yes', 'scores': {'contains': 'x'}}}},
  ],
)
def test_malformed_lines_are_named(line, tmp_path):
  write_lines(tmp_path, CASE, line)
  with pytest.raises(ValueError, match='cases.jsonl line 2: not a case'):
    read_cases(tmp_path)


def test_limits_and_repetition(tmp_path, monkeypatch):
  write_lines(tmp_path, CASE, '', CASE)
  with pytest.raises(ValueError, match="line 3: case 'spoken_qa-003' .* twice"):
    read_cases(tmp_path)
  monkeypatch.setattr(case_records, 'MAX_CASES', 2)
  with pytest.raises(ValueError, match='more than 2 lines'):
    read_cases(tmp_path)
  monkeypatch.setattr(case_records, 'MAX_LINE_BYTES', 50)
  with pytest.raises(ValueError, match='line 1: over 50 bytes'):
    read_cases(tmp_path)


def test_a_case_is_read_as_it_was_written(tmp_path):
  [case] = read_cases(write_lines(tmp_path, CASE))
  part = case.turns[0].content[1]
  assert isinstance(part, SpokenPart) and part.text == 'Who painted the Mona Lisa?'
  assert part.tokens[3].alternatives[1][0] == ' Mona'
  assert case.score('text', 'exact_match') == 1 and case.score('audio', 'x') is None


def test_words_are_as_sure_as_their_weakest_token():
  tokens = [
    Token('▁the'.replace('▁', ' '), -0.01),
    Token(' cap', -0.05),
    Token('itol', -0.9, (('itol', -0.9), ('ital', -1.0), ('it', -4.0))),
    Token('.', -0.02),
    Token(' not there', -9.0),
  ]
  the, capitol, unknown = split_words('the capitol. Yes', tokens)
  assert the.level == 'sure' and unknown.probability is None
  assert capitol.level == 'unsure' and capitol.probability == pytest.approx(
    0.4066, 1e-3
  )
  assert [text for text, _ in capitol.alternatives] == ['capital.', 'capit.']


@given(st.text(max_size=30), st.lists(st.tuples(st.text(max_size=4), st.floats())))
def test_any_tokens_leave_the_transcript_as_it_is(transcript, tokens):
  words = split_words(transcript, [Token(*token) for token in tokens])
  assert [word.text for word in words] == transcript.split()


@pytest.fixture
def cases(tmp_path):
  """Thirty cases, of which every third is right, with two more tasks."""
  lines = [
    make_case('spoken_qa', i, {'audio'} if i % 3 == 0 else ()) for i in range(90)
  ]
  write_folder(tmp_path, lines)
  return read_cases(tmp_path)


def test_the_sample_is_bounded_random_and_has_failures(cases):
  task = make_tasks()['spoken_qa']
  chosen = page_examples.choose_cases(cases, task)
  sampled, failed = chosen[: page_examples.SAMPLED_CASES], chosen[6:]
  assert len(failed) == page_examples.FAILED_CASES
  assert all(page_examples.badness(case, task) == 1 for case in failed)
  assert len({case.id for case in chosen}) == len(chosen)
  assert page_examples.choose_cases(cases[::-1], task) == chosen
  assert [case.id for case in sampled] != [case.id for case in cases[:6]]


def test_the_audio_on_a_page_is_bounded(cases, tmp_path, monkeypatch):
  tasks = {'spoken_qa': make_tasks()['spoken_qa']}
  monkeypatch.setattr(page_examples, 'MAX_AUDIO_BYTES', 7_000)
  examples = page_examples.make_examples(tasks, cases, tmp_path)
  parts = [example.turns[0].parts[1] for example in examples]
  urls = [part.url for part in parts if part.url]
  assert 0 < len(urls) < len(parts) == 16
  assert sum(map(len, urls[:-1])) < 7_000
  assert 'too large' in next(part.missing for part in parts if not part.url)


def test_audio_that_cannot_be_read_has_a_reason(tmp_path):
  budget = page_examples.AudioBudget(tmp_path, 1_000)
  (tmp_path / 'noise.wav').write_bytes(b'RIFF' + bytes(99))
  for path in ('missing.wav', 'noise.wav', 'null\0byte.wav', '/dev/zero'):
    url, reason = budget.embed(SpokenPart('hello', path))
    assert url is None and reason
  assert budget.left == 1_000


@pytest.mark.parametrize(
  'expected, shown',
  [
    (None, ''),
    ('Paris', 'Paris'),
    (['Paris', 'the Paris'], 'Paris or the Paris'),
    ({'answers': ['a', 'b']}, 'a or b'),
    ({'letter': 'B', 'options': ['x', 'y']}, 'letter: B; options: x or y'),
    ({'reference': 'Oui.', 'lang': 'fr'}, 'Oui.; lang: fr'),
    ([{'kind': 'json'}], '[{"kind": "json"}]'),
    ('x' * 4_003, 'x' * 4_000 + ' … (3 more characters)'),
  ],
)
def test_what_is_expected_is_shown_as_text(expected, shown):
  assert page_examples.describe_expected(expected) == shown
