# SPDX-License-Identifier: Apache-2.0
"""The page of tasks: what it shows, that text is escaped, that nothing is loaded."""

import base64
import hashlib
import json
import re

import pytest

from acl_jax.evaluation.case_records import read_cases
from acl_jax.evaluation.report import render, write_pages
from tests.evaluation.html_page import Page
from tests.evaluation.likelihoods import BENIGN, make_report
from tests.evaluation.measured_tasks import ARMS, interval, make_tasks, write_folder

HOSTILE = (
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  "' onmouseover='alert(1)",
  '</title></style></code></pre></svg><script>alert(1)</script>',
  '&lt;b&gt; &amp; &#60;',
  '{{ 7 * 7 }} {% raw %} {# #}',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = write_folder(tmp_path_factory.mktemp('report'))
  write_pages(folder, 'Six tasks')
  return folder


@pytest.fixture(scope='module')
def page(folder):
  return Page((folder / 'report.html').read_text())


def classes(page, tag):
  return [(attrs.get('class') or '').split() for t, attrs in page.elements if t == tag]


def test_the_table_has_every_task_and_arm(page):
  table = '\n'.join(page.texts['table'][0].split())
  for task in make_tasks().values():
    metric = task['metrics'][0]
    for arm in ARMS:
      value = task['arms'][arm][metric]['value']
      shown = f'{value:.1f}' if metric == 'bleu' else f'{value:.1%}'
      assert shown in table
  assert '63.0%\nto\n79.0%' in table
  assert 'Matched\ncascade' in table and 'average' not in table


def test_comparisons_are_in_words(page):
  items = [' '.join(text.split()) for text in page.texts['li']]
  assert (
    'Audio − Matched cascade: +9.0 points of exact match (95 % interval +4.0 to +14.0).'
    " McNemar's exact test p < 0.001, Cohen's κ 0.64. Better; the difference can be"
    ' told from chance.'
  ) in items
  assert any('Worse; the difference can be told' in item for item in items)
  assert any('−3.1 points' in i and 'The difference cannot be told' in i for i in items)
  [overview] = [item for item in items if item.startswith('Audio − Cascade: better')]
  assert 'worse in Speech translation, Robustness;' in overview


def test_curves_and_bars(page):
  captions = page.texts['figcaption']
  assert [c for c in captions if 'match' in c and ':' in c] == [
    'Babble: exact match',
    'Pink: exact match',
    'Music: exact match',
  ]
  assert 'Exact, babble: answer occurs' in captions
  assert page.texts['text'].count('20 dB') == 3
  bars = page.texts['text']
  assert {'tt', 'ta', 'aa', 'ata', 'reverb', 'two facts', 'en-fr'} <= set(bars)
  assert len(page.attributes('points')) == 4 * 6  # without the guards


def test_what_was_heard_has_posteriors_and_alternatives(page):
  heard = [' '.join(t.split()) for t in page.texts['p'] if 'The model heard' in t]
  assert any(
    'the97% capitol50% or capital 41% or Capitol 3% of97% France?97%' in text
    for text in heard
  )
  assert 'capitol' in page.texts['mark']
  levels = [names for names in classes(page, 'span') if 'word' in names]
  assert ['word', 'unsure'] in levels and ['word', 'sure'] in levels


def test_cases_are_marked_for_the_filters(folder, page):
  shown = [attrs for tag, attrs in page.elements if tag == 'article']
  cases = {f'{case.task}-{case.id[-3:]}': case for case in read_cases(folder)}
  labels = [attrs['aria-label'].split(': ')[1] for attrs in shown]
  assert len(set(labels)) == len(labels) and set(labels) <= set(cases)
  for label, attrs in zip(labels, shown, strict=True):
    right, wrong = (set(attrs[f'data-{name}'].split()) for name in ('right', 'wrong'))
    scores = cases[label].answers
    metric = make_tasks()[attrs['data-task']]['metrics'][0]
    if attrs['data-task'] == 'translation':
      assert not right | wrong
    else:
      assert right == {arm for arm in ARMS if scores[arm].scores[metric] == 1}
      assert wrong == set(ARMS) - right


def test_the_page_loads_nothing_and_runs_only_its_own_script(page):
  policy = dict(
    part.split(' ', 1)
    for attrs in [a for tag, a in page.elements if tag == 'meta']
    if attrs.get('http-equiv') == 'Content-Security-Policy'
    for part in attrs['content'].split('; ')
  )
  for source, kind in (
    (page.texts['style'], 'style'),
    (page.texts['script'], 'script'),
  ):
    [text] = source
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert policy[f'{kind}-src'] == f"'sha256-{digest}'"
    assert 'url(' not in text and '@import' not in text and 'fetch(' not in text
  assert policy['default-src'] == "'none'" and 'unsafe' not in ' '.join(policy.values())
  assert all(url.startswith('data:') for url in page.attributes('src'))
  assert all(url.startswith('#') for url in page.attributes('href'))
  ids = page.attributes('id')
  assert {url[1:] for url in page.attributes('href')} <= set(ids)
  assert len(set(ids)) == len(ids)
  assert not page.attributes('style')


def render_everywhere(text, folder):
  """Render a page on which all text from outside is `text`."""
  case = {
    'task': text,
    'id': text,
    'group': text,
    'turns': [
      {'role': text, 'content': text},
      {
        'role': 'user',
        'content': [
          text,
          {
            'text': text,
            'audio': None,
            'degradation': text,
            'heard': {'audio': 'word', 'cascade': 'word', text: 'word'},
            'tokens': [
              {'text': 'word', 'log_prob': -2.0, 'alternatives': [[f'x{text}', -1.0]]}
            ],
          },
        ],
      },
    ],
    'expected': {text: text},
    'answers': {arm: {'text': text, 'scores': {text: 0.25}} for arm in ('audio', text)},
  }
  (folder / 'cases.jsonl').write_text(json.dumps(case))
  measured = {arm: {text: interval(0.5)} for arm in ('audio', text)}
  task = {
    'cases': 7,
    'binary': True,
    'metrics': [text],
    'arms': measured,
    'groups': {
      name: {'cases': 3, 'arms': measured}
      for name in (text, f'{text}_5db', f'{text}_0db', 'other')
    },
    'comparisons': {
      f'audio - {text}': {
        'metric': text,
        'difference': interval(0.25),
        'mcnemar_p': 0.5,
        'kappa': 0.5,
        'verdict': text,
      }
    },
    'signature': text,
  }
  report = make_report(text) | {'tasks': {text: task}}
  return render(report, [], {}, text, read_cases(folder), folder)


@pytest.mark.parametrize('text', HOSTILE)
def test_hostile_text_is_escaped(text, tmp_path):
  page = Page(render_everywhere(text, tmp_path))
  assert page.structure() == Page(render_everywhere(BENIGN, tmp_path)).structure()
  assert len(page.texts['script']) == 1 and len(page.texts['style']) == 1
  assert page.texts['h1'] == [text]
  assert page.texts['code'][-1] == json.dumps(make_report(text)['model'], indent=2)
  assert f'{text}: {text}' in page.texts['dd']


def test_a_report_without_likelihoods_or_cases(tmp_path):
  write_folder(tmp_path, cases=[], likelihoods=False)
  write_pages(tmp_path, 'Tasks alone')
  page = Page((tmp_path / 'report.html').read_text())
  assert 'script' not in page.texts and 'article' not in page.texts
  assert 'Likelihoods' not in page.texts['h2'] and 'Examples' not in page.texts['h2']
  assert 'Spoken questions' in page.texts['h2']


def test_arms_that_were_not_measured_are_dashes(tmp_path):
  tasks = make_tasks()
  for arm in ('cascade', 'no_audio'):
    del tasks['spoken_qa']['arms'][arm]
  tasks['spoken_qa']['arms']['audio']['exact_match'] = None
  tasks['spoken_qa']['arms']['text']['exact_match'] |= {'low': None, 'high': None}
  tasks['spoken_qa']['comparisons']['audio - cascade'] = None
  page = Page(render({'model': {}, 'tasks': tasks}, [], {}, 'title'))
  cells = [' '.join(text.split()) for text in page.texts['td'][:6]]
  assert [re.sub(r' .*', '', cell) for cell in cells] == [
    '82.0%',
    '–',
    '–',
    '62.0%',
    '12.0%',
    '–',
  ]
  assert 'to' not in cells[0] and 'None' not in ' '.join(page.texts['table'])


def test_markdown_has_the_plain_numbers(folder):
  text = (folder / 'report.md').read_text()
  assert '| Speech translation: BLEU | 400 | 32.8 (24.8 to 40.8) | 28.4' in text
  assert '| babble 20 dB | 20 |' in text
  assert '- Audio − Cascade: −8.0 points of exact match (95 % interval' in text
  assert 'Signature: nrefs:1\\|case:mixed' in text
  assert '| audio | 1.000 | 10.000 | 0.625 |' in text


@pytest.mark.parametrize('text', HOSTILE)
def test_markdown_shows_hostile_text_as_it_is(text):
  tasks = {text: make_tasks()['instructions'] | {'signature': text}}
  lines = render_lines(tasks, text)
  benign = render_lines({BENIGN: make_tasks()['instructions']}, BENIGN)
  assert not [line for line in lines if re.search(r'(?<!\\)<', line)]
  assert sum(line.startswith('|') for line in lines) == sum(
    line.startswith('|') for line in benign
  )


def render_lines(tasks, title):
  from acl_jax.evaluation.markdown_report import format_markdown

  return format_markdown({'tasks': tasks, 'model': {}}, title).splitlines()
