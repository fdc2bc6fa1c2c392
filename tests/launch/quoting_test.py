# SPDX-License-Identifier: Apache-2.0
"""Arguments survive bash and Kubernetes unchanged."""

import re
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launch import quoting

TEXT = st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']))
ARGV = st.lists(TEXT, min_size=1, max_size=6)
HARD = ["it's", '$(id)', '`id`', '$HOME', '!!', '\\', '\n', '\x7f', 'é\t"', '-n', '*']


def read_by_bash(line: str) -> list[str]:
  """Return the arguments that bash passes to a program started with that line."""
  # In the C locale, where \u escapes would fail, and with history expansion on.
  script = f'set -H\nprintf "%s\\0" {line}'
  completed = subprocess.run(
    ['bash', '-c', script], capture_output=True, check=True, env={'LC_ALL': 'C'}
  )
  return completed.stdout.decode().split('\0')[:-1]


@pytest.mark.full
@given(ARGV)
@example(HARD)
@example([''])
@settings(max_examples=60)
def test_bash_passes_every_argument_on_unchanged(argv):
  assert read_by_bash(quoting.command_line(argv)) == argv
  assert read_by_bash(quoting.command_lines(argv, '  ')) == argv


@given(TEXT)
def test_a_quoted_word_is_printable_ascii_on_one_line(text):
  word = quoting.quote(text)
  assert word.isascii() and word.isprintable()


@pytest.mark.full
@given(ARGV)
@settings(max_examples=30)
def test_a_quoted_command_in_a_command_survives_both_shells(argv):
  inner = quoting.command_line(argv)
  [outer] = read_by_bash(quoting.quote(inner))
  assert read_by_bash(outer) == argv


@pytest.mark.full
def test_undecodable_bytes_are_kept():
  word = quoting.quote('a\udcff')
  completed = subprocess.run(['bash', '-c', f'printf %s {word}'], capture_output=True)
  assert completed.stdout == b'a\xff'


def test_nul_is_refused():
  with pytest.raises(ValueError, match='NUL'):
    quoting.quote('a\0b')


def read_by_kubernetes(text: str, variables: dict[str, str]) -> str:
  """Expand a command like Kubernetes: $(x) is a variable, $$ is $, the rest is kept.

  Source: k8s.io/kubernetes/third_party/forked/golang/expansion.
  """
  return re.sub(
    r'\$\$|\$\(([^)]*)\)',
    lambda m: '$' if m[0] == '$$' else variables.get(m[1], m[0]),
    text,
  )


@given(st.text('$(A)x', max_size=12))
@example('$$(A)')
@example('$(A)')
@example('$$$$')
def test_kubernetes_expands_nothing_in_escaped_text(text):
  assert read_by_kubernetes(quoting.escape_kubernetes(text), {'A': 'replaced'}) == text


@pytest.mark.parametrize(
  'argv, before, after',
  [
    (['x', '--a', '--', '--b', '--'], ['x', '--a'], ['--b', '--']),
    (['x', '--a'], ['x', '--a'], []),
    (['x', '--'], ['x'], []),
  ],
)
def test_arguments_are_split_at_two_dashes(argv, before, after):
  assert quoting.split_at_dashes(argv) == (before, after)


def test_every_flag_is_on_a_line_of_its_own():
  argv = ['gcloud', 'create', 'x', '--zone=a b', '--spot']
  expected = "  gcloud create x \\\n    '--zone=a b' \\\n    --spot"
  assert quoting.command_lines(argv, '  ') == expected
