# SPDX-License-Identifier: Apache-2.0
"""Two reports side by side."""

import json
import subprocess
import sys

import numpy as np
import pytest

from acl_jax.evaluation.comparison import compare, read_measured
from acl_jax.evaluation.comparison_page import format_comparison, render_comparison
from acl_jax.evaluation.statistics import mcnemar
from tests.evaluation.html_page import Page
from tests.evaluation.measured_tasks import make_case, write_folder

RIGHT_IN_FIRST = [i % 3 == 0 for i in range(14)]
RIGHT_IN_SECOND = [i % 3 == 0 or i > 5 for i in range(14)]


def make_lines(rights, task='spoken_qa'):
  return [
    make_case(task, i, {'audio', 'text'} if right else {'text'})
    for i, right in enumerate(rights)
  ]


@pytest.fixture
def folders(tmp_path):
  first = write_folder(tmp_path / 'small', make_lines(RIGHT_IN_FIRST))
  second = write_folder(tmp_path / 'large', make_lines(RIGHT_IN_SECOND))
  return first, second


def rewrite(folder, change):
  """Change the lines of a folder's cases.jsonl."""
  path = folder / 'cases.jsonl'
  lines = change([json.loads(line) for line in path.read_text().splitlines()])
  path.write_text('\n'.join(map(json.dumps, lines)))


def compare_folders(folders):
  return compare(*map(read_measured, folders))


def test_differences_are_paired(folders):
  compared = compare_folders(folders)
  audio = compared['tasks']['spoken_qa']['arms']['audio']['exact_match']
  first, second = np.array(RIGHT_IN_FIRST), np.array(RIGHT_IN_SECOND)
  assert audio['cases'] == compared['cases'] == 14
  assert audio['first'] == first.mean() and audio['second'] == second.mean()
  assert audio['difference']['value'] == pytest.approx(5 / 14)
  assert 0 < audio['difference']['low'] < 5 / 14 < audio['difference']['high']
  assert audio['mcnemar_p'] == mcnemar(first, second) == pytest.approx(2 / 2**5)
  assert (audio['only_first_right'], audio['only_second_right']) == (0, 5)
  assert audio['verdict'] == 'cannot be told from chance'
  text = compared['tasks']['spoken_qa']['arms']['text']['exact_match']
  assert text['difference'] == {'value': 0, 'low': 0, 'high': 0}
  assert text['mcnemar_p'] == 1


def test_the_order_of_cases_changes_nothing(folders):
  compared = compare_folders(folders)
  rewrite(folders[1], lambda lines: lines[::-1])
  assert compare_folders(folders) == compared


def test_cases_of_one_report_alone_are_named(folders):
  rewrite(folders[0], lambda lines: lines[1:])
  rewrite(folders[1], lambda lines: lines[:-2])
  compared = compare_folders(folders)
  assert compared['cases'] == 11
  ids = {'spoken_qa': ['spoken_qa-012', 'spoken_qa-013']}
  assert compared['first']['only_here'] == ids
  assert compared['second']['only_here'] == {'spoken_qa': ['spoken_qa-000']}
  text = format_comparison(compared)
  assert '2 cases are only in small and were left out: spoken_qa-012, spoken_qa' in text


def test_other_reference_answers_are_left_out(folders):
  def change(lines):
    lines[4]['expected'] = 'another'
    return lines

  rewrite(folders[1], change)
  compared = compare_folders(folders)
  assert compared['other_answer_expected'] == {'spoken_qa': ['spoken_qa-004']}
  assert compared['tasks']['spoken_qa']['cases'] == 13
  assert '1 cases expect another answer' in format_comparison(compared)


def test_different_sets_are_refused(folders):
  def change_words(lines):
    lines[3]['turns'][0]['content'][0] = 'Say it in two words.'
    return lines

  rewrite(folders[1], change_words)
  with pytest.raises(ValueError, match="`turns` of case 'spoken_qa-003' of spoken_qa"):
    compare_folders(folders)
  rewrite(folders[1], lambda lines: [x | {'id': f'x{x["id"]}'} for x in lines])
  with pytest.raises(ValueError, match='different sets: no case is in both; the first'):
    compare_folders(folders)


@pytest.mark.parametrize('file', ['report.json', 'cases.jsonl'])
def test_a_report_without_cases_is_refused(folders, file):
  (folders[0] / file).write_text('{}' if file == 'report.json' else '')
  with pytest.raises(ValueError, match='small has no cases to compare'):
    compare_folders(folders)


def test_metrics_of_all_cases_together_are_not_tested(tmp_path):
  lines = make_lines(RIGHT_IN_FIRST, 'translation')
  folders = [write_folder(tmp_path / name, lines) for name in 'ab']
  compared = compare_folders(folders)
  assert compared['tasks']['translation']['arms'] == {}
  assert (
    compared['tasks']['translation']['unpaired']['bleu']['audio']
    == [pytest.approx(28.4)] * 2
  )
  text = format_comparison(compared)
  assert 'not tested in pairs, a and b: Text 32.8 and 32.8, Audio 28.4' in text
  assert '0 differences were tested' in text


def test_the_page_has_every_difference_and_what_changed(folders):
  measured = [read_measured(folder) for folder in folders]
  html = render_comparison(compare(*measured), *measured)
  page = Page(html.replace('<br>', ''))
  assert page.texts['h1'] == ['small and large']
  cells = page.texts['td']
  row = cells.index('Audio')
  assert cells[row + 1 : row + 3] == ['35.7%', '71.4%']
  assert cells[row + 3] == '+35.7+14.3 to +64.3'
  changed = [attrs for tag, attrs in page.elements if tag == 'article']
  assert len(changed) == 5
  assert 'script' not in page.texts and not page.attributes('src')


@pytest.mark.parametrize('text', ['<script>alert(1)</script>', '"><img src=x>'])
def test_hostile_text_is_escaped(text, folders):
  def change(lines):
    for line in lines:
      line['answers']['audio']['text'] = text
      line['expected'] = [text]
      line['turns'][0]['content'][0] = text
    return lines

  for folder in folders:
    rewrite(folder, change)
  measured = [read_measured(folder) for folder in folders]
  page = Page(render_comparison(compare(*measured), *measured).replace('<br>', ''))
  assert 'script' not in page.texts and 'img' not in page.texts
  assert text in page.texts['dd']


@pytest.mark.full
def test_the_program_writes_both_files(folders, tmp_path):
  command = [sys.executable, '-m', 'acl_jax.evaluation.compare', *map(str, folders)]
  done = subprocess.run(
    [*command, f'--output={tmp_path}/out'], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert '+35.7' in done.stdout and 'compare: 14 cases' in done.stdout
  compared = json.loads((tmp_path / 'out/compare.json').read_text())
  assert compared['cases'] == 14
  assert (tmp_path / 'out/compare.html').stat().st_size > 5_000
  failed = subprocess.run(command[:-1], capture_output=True, text=True)
  assert failed.returncode == 1
  assert failed.stderr == 'error: B is missing, see --help\n'
