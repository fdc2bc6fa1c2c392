# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.serving.realtime.spoken import Spoken, cut


def speak(*sentences):
  spoken = Spoken(1_000)
  spoken.text = '\n\n'.join(text for text, _ in sentences) + '\n'
  for text, milliseconds in sentences:
    spoken.begin(text)
    spoken.add(bytes(2 * milliseconds))
    spoken.finish()
  return spoken


def test_sentences_that_were_played_are_kept():
  spoken = speak(('One two.', 800), ('Three four five.', 1_600))
  assert spoken.milliseconds == 2_400
  assert spoken.text_until(0) == ''
  assert spoken.text_until(400) == 'One'
  assert spoken.text_until(800) == 'One two.'
  assert spoken.text_until(1_500) == 'One two.\n\nThree'
  assert spoken.text_until(2_399) == 'One two.\n\nThree four'
  assert spoken.text_until(2_400) == 'One two.\n\nThree four five.'


def test_a_sentence_that_was_not_sent_whole():
  spoken = Spoken(1_000)
  spoken.text = 'One two three four. And'
  spoken.begin('One two three four.')  # about 1.2 s
  spoken.add(bytes(2 * 600))
  assert spoken.text_until(10_000) == 'One two'


@given(
  st.lists(st.tuples(st.text(max_size=30), st.integers(0, 900)), max_size=5),
  st.lists(st.floats(0, 5_000), min_size=2, max_size=2),
)
def test_more_time_is_more_text(sentences, times):
  spoken = speak(*sentences)
  shorter, longer = (spoken.text_until(t) for t in sorted(times))
  assert longer.startswith(shorter) and spoken.text.startswith(longer)


@given(st.text(), st.floats(0, 1))
def test_a_cut_text_is_a_beginning(text, fraction):
  assert text.startswith(cut(text, fraction))
