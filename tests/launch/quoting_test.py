# SPDX-License-Identifier: Apache-2.0
"""What bash and Kubernetes read back of the arguments that they are given."""

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
  """The arguments that a program gets, started by bash with that line."""
  # In the C locale, where \u escapes would fail, and with the history that people have.
  script = f'set -H\nprintf "%s\\0" {line}'
  done = subprocess.run(
    ['bash', '-c', script], capture_output=True, check=True, env={'LC_ALL': 'C'}
  )
  return done.stdout.decode().split('\0')[:-1]


@given(ARGV)
@example(HARD)
@example([''])
@settings(max_examples=60)
def test_bash_reads_back_every_argument(argv):
  assert read_by_bash(quoting.line(argv)) == argv
  assert read_by_bash(quoting.lines(argv, '  ')) == argv


@given(TEXT)
def test_a_word_is_printable_ascii_on_one_line(text):
  word = quoting.quote(text)
  assert word.isascii() and word.isprintable()


@given(ARGV)
@settings(max_examples=30)
def test_a_command_within_a_command_survives_both_shells(argv):
  inner = quoting.line(argv)
  [outer] = read_by_bash(quoting.quote(inner))
  assert read_by_bash(outer) == argv


def test_bytes_that_are_no_text_are_kept():
  word = quoting.quote('a\udcff')
  done = subprocess.run(['bash', '-c', f'printf %s {word}'], capture_output=True)
  assert done.stdout == b'a\xff'


def test_nul_is_refused():
  with pytest.raises(ValueError, match='NUL'):
    quoting.quote('a\0b')


def read_by_kubernetes(text: str, variables: dict[str, str]) -> str:
  """What Kubernetes makes of a command: k8s.io/kubernetes/third_party/forked/golang/
  expansion, where $(x) is a variable, $$ is $, and the rest is kept.
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
def test_kubernetes_replaces_nothing(text):
  assert read_by_kubernetes(quoting.kubernetes(text), {'A': 'replaced'}) == text


@pytest.mark.parametrize(
  'argv, own, rest',
  [
    (['x', '--a', '--', '--b', '--'], ['x', '--a'], ['--b', '--']),
    (['x', '--a'], ['x', '--a'], []),
    (['x', '--'], ['x'], []),
  ],
)
def test_two_dashes_divide(argv, own, rest):
  assert quoting.split(argv) == (own, rest)


def test_a_flag_a_line():
  argv = ['gcloud', 'create', 'x', '--zone=a b', '--spot']
  expected = "  gcloud create x \\\n    '--zone=a b' \\\n    --spot"
  assert quoting.lines(argv, '  ') == expected
