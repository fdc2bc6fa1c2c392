# SPDX-License-Identifier: Apache-2.0
import html.parser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.markup import Markup, join, mark_differences, tag
from acl_jax.evaluation.pictures import round_ticks


class Reader(html.parser.HTMLParser):
  """Elements, attributes and text as a browser finds them."""

  def __init__(self):
    super().__init__()
    self.tags, self.values, self.text = [], [], ''

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.values += [value for _, value in attrs]

  def handle_data(self, data):
    self.text += data


def read(markup):
  reader = Reader()
  reader.feed(markup)
  reader.close()
  return reader


words = st.text(st.characters(exclude_categories=['Cc', 'Cs']), min_size=1)


@given(words, words)
def test_text_stays_text(inner, value):
  page = read(tag('p', tag('b', inner), inner, title=value))
  assert page.tags == ['p', 'b']
  assert page.values == [value] and page.text == inner * 2


def test_a_script_is_not_run():
  assert read(tag('dd', '<script>alert(1)</script>')).tags == ['dd']
  assert read(mark_differences('x', '<script>alert(1)</script>')).tags == ['mark']


def test_attributes():
  made = tag('rect', stroke_width=2, class_='a', controls=True, hidden=False)
  assert made == '<rect stroke-width="2" class="a" controls></rect>'
  assert tag('img', src='x') == '<img src="x">'
  assert join('<', Markup('<b>')) == '&lt;<b>'


def test_words_that_were_not_said_are_marked():
  heard = mark_differences('The number is five.', 'the numbers is five')
  assert heard == 'the <mark>numbers</mark> is five'
  assert mark_differences('five', '') == ''


@given(st.floats(1e-9, 1e9))
def test_ticks_reach_the_largest_value(most):
  ticks = round_ticks(most)
  assert ticks[0] == 0 and ticks[-1] >= most * (1 - 1e-6)
  assert 3 <= len(ticks) <= 7


@pytest.mark.parametrize('most', [0.0, -1.0, float('nan')])
def test_ticks_of_nothing(most):
  assert round_ticks(most) == [0, 1]
