# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.text.detokenizer import Detokenizer, StopStrings
from acl_jax.text.tokenizers import load_tokenizer
from tests.serving.fakes import make_tokenizer

TEXTS = ('', ' ', 'a', '€', '日本語', '👩\u200d🔬', ' the end', '\n\n', '��', 'x')


def pieces_of(tokenizer, ids):
  detokenizer = Detokenizer(tokenizer)
  return [*map(detokenizer.push, ids), detokenizer.finish()]


@given(st.lists(st.integers(0, 257), max_size=40))
def test_pieces_of_any_bytes_join_to_the_text_of_all(ids):
  tokenizer = make_tokenizer()
  assert ''.join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@given(st.lists(st.sampled_from(TEXTS), max_size=9).map(''.join))
def test_no_piece_ends_within_a_character(text):
  tokenizer = make_tokenizer()
  pieces = pieces_of(tokenizer, tokenizer.encode(text))
  assert ''.join(pieces) == text
  assert len([p for p in pieces if p]) <= max(1, len(text))
  if '\ufffd' not in text:
    assert not any('\ufffd' in piece for piece in pieces)


@given(
  st.text('abc', max_size=30),
  st.lists(st.text('abc', min_size=1, max_size=4), max_size=3),
  st.integers(1, 4),
)
def test_stop_strings_cut_as_if_the_text_came_at_once(text, strings, size):
  stop, shown, places = StopStrings(strings), '', [text.find(s) for s in strings]
  for start in range(0, len(text), size):
    shown += stop.push(text[start : start + size])
    assert text.startswith(shown)
  shown += stop.finish()
  # The first string that is complete, wherever a longer one began.
  ends = [p + len(s) for p, s in zip(places, strings, strict=True) if p >= 0]
  if not ends:
    assert (shown, stop.found) == (text, False)
  else:
    assert stop.found and not any(s in shown for s in strings)
    assert text[len(shown) :].startswith(tuple(strings))


@pytest.mark.parametrize('held, shown', [('ab', ''), ('xa', 'x'), ('ac', 'ac')])
def test_only_what_may_become_a_stop_string_is_held(held, shown):
  assert StopStrings(['abc']).push(held) == shown


@pytest.mark.full
def test_the_tokenizers_of_real_models():
  from acl_jax import assets

  tokenizer = load_tokenizer(assets.resolve('asset:smollm2-135m-instruct'))
  text = ' '.join(TEXTS) + ' def f(x):\n    return x  # 100 %, naïve 🤷🏽'
  ids = tokenizer.encode(text)
  assert ''.join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)
