# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.corpus_tools.spoken import spell_out


@pytest.mark.parametrize(
  'written, spoken',
  [
    ('It costs $40.', 'It costs 40 dollars.'),
    ('$1 or £1.01?', '1 dollar or 1 pound and 1 penny?'),
    ('€0.99, not $1,250', '99 cents, not 1,250 dollars'),
    ('$2.5 million', '2.5 million dollars'),
    ('at 7:30', 'at 7 30'),
    ('10:00', "10 o'clock"),
    ('10:00 a.m. today', '10 AM today'),
    ('at 8:05 p.m.', 'at 8 oh 5 PM.'),
    ('by 5pm, or 6 p.m.?', 'by 5 PM, or 6 PM?'),
    ('in 1987 and in 1905.', 'in 19 87 and in 19 oh 5.'),
    ('in 1900, in 2008', 'in 19 hundred, in 2008'),
    ('March 3, 1998', 'March 3, 19 98'),
    ('in 1500 boxes', 'in 1500 boxes'),
    ('1/2 of 24/7', 'one half of 24/7'),
    ('call 555-0134', 'call 5 5 5, 0 1 3 4'),
    ('20°C, 5 kg, 12%', '20 degrees Celsius, 5 kilograms, 12 percent'),
    ('Dr. Smith left.', 'Doctor Smith left.'),
    ('It is C-A-T.', 'It is C, A, T.'),
    ('3.5 kilometres', '3.5 kilometres'),
    ('“It’s”', '"It\'s"'),
  ],
)
def test_written_numbers_become_words(written, spoken):
  assert spell_out(written) == spoken


@given(st.text('abc ,.?!-ABC', max_size=40))
def test_text_without_numbers_is_spoken_as_it_is(text):
  assert spell_out(text).replace(', ', '-') == text.replace(', ', '-')


@given(st.text(max_size=60))
def test_arbitrary_text_does_not_raise(text):
  spell_out(text)
