# SPDX-License-Identifier: Apache-2.0
"""Sentences: where they end, and that it does not matter how the text arrives."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acl_jax.serving.sentences import MAX_CHARACTERS, SentenceSplitter, split_sentences

WORDS = ['Mr. ', 'e.g. ', 'etc. ', '3.14 ', '1. ', 'a', 'B', ' ', '\n', '. ', '."', '?']
WORDS += ['! ', ', ', '; ', '\u2026', '\u3002', 'word ', 'x' * 120, ' ' * 70, '*', '- ']
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=40).map(''.join)


def split(*pieces: str) -> list[str]:
  splitter = SentenceSplitter()
  sentences = [sentence for piece in pieces for sentence in splitter.push(piece)]
  return [*sentences, *splitter.finish()]


@given(TEXTS)
@example('x' * 1_000)
@example('.' * (MAX_CHARACTERS + 3) + ' A')
@example('x' * (MAX_CHARACTERS - 4) + ' etc. ' + 'Y' * 9)
def test_the_pieces_are_the_text(text):
  sentences = split(text)
  assert ''.join(''.join(sentences).split()) == ''.join(text.split())
  for sentence in sentences:
    assert sentence == sentence.strip() and 0 < len(sentence) <= MAX_CHARACTERS


@given(TEXTS, st.lists(st.integers(0, 400), max_size=6))
@example('x' * (MAX_CHARACTERS - 4) + ' etc. ' + 'Y' * 9, [MAX_CHARACTERS + 1])
@example('He left at 5 p.m. Then', [17, 18])
def test_how_a_text_arrives_changes_nothing(text, cuts):
  whole = split(text)
  assert split(*text) == whole
  ends = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
  pieces = [text[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
  assert split(*pieces) == whole


@pytest.mark.parametrize(
  'text, expected',
  [
    ('Hello. How are you? Fine!', ['Hello.', 'How are you?', 'Fine!']),
    ('Mr. Smith and Dr. Lee agree. So do I.', 2),
    ('Pi is 3.14. Or 3.1416.', ['Pi is 3.14.', 'Or 3.1416.']),
    ('J. R. R. Tolkien wrote it, e.g. at 5 p.m. on Monday.', 1),
    ('He came at 5 p.m. Then he left.', 2),
    ('Buy:\n1. Figs\n2. Pears\n\n- Nuts', ['Buy:', '1. Figs', '2. Pears', '- Nuts']),
    ('"Go!" she said. (Really.) **Yes.** No.', 5),
    ('So it was in 1999. Then came 2000.', 2),
    ('Well\u2026 perhaps. No?! Yes.', 4),
    ('\u4f60\u597d\u3002\u518d\u89c1\u3002', 2),
    ('It costs 1,000,000 dollars and that is quite a lot of money.', 1),
    ('  \n \t ', []),
  ],
)  # fmt: skip
def test_sentences(text, expected):
  sentences = split(text)
  assert expected in (sentences, len(sentences)), sentences


def test_only_the_first_piece_ends_at_a_comma():
  assert split(
    'Well, the capital of France, as you may know, is Paris, mostly. ' * 2
  ) == [
    'Well, the capital of France, as you may know,',
    'is Paris, mostly.',
    'Well, the capital of France, as you may know, is Paris, mostly.',
  ]


def test_a_long_sentence_is_cut_at_a_comma_or_between_words():
  words = 'one two three ' * 60
  assert all(piece.split()[0] in 'one two three' for piece in split(words))
  long = 'and ' * 45 + 'so, ' + 'and ' * 60
  assert split('Yes. ' + long)[1].endswith('so,')


def test_a_sentence_is_there_as_soon_as_it_is_complete():
  splitter = SentenceSplitter()
  assert list(splitter.push('Hello.')) == []  # 'Hello.5' would be a word
  assert list(splitter.push(' W')) == ['Hello.']
  assert list(splitter.push('orld\n')) == ['World']
  assert list(splitter.push('The end')) == []
  assert list(splitter.finish()) == ['The end']


def test_the_asynchronous_splitter():
  async def pieces():
    for piece in ['One. T', 'wo. Thr', 'ee']:
      yield piece

  async def collect():
    return [sentence async for sentence in split_sentences(pieces())]

  assert asyncio.run(collect()) == ['One.', 'Two.', 'Three']
