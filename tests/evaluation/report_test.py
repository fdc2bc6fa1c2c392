# SPDX-License-Identifier: Apache-2.0
"""The page as an HTML parser sees it: what it shows, and that all text is escaped."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from acl_jax.evaluation.examples import CONDITIONS
from acl_jax.evaluation.report import CONDITION_LABELS, ReportExample, render
from tests.evaluation.html_page import Page
from tests.evaluation.likelihoods import BENIGN, NLL, make_report


def make_example(text=BENIGN, **changes):
  rng = np.random.default_rng(0)
  values = {
    'id': text,
    'waveform': rng.normal(size=800).astype(np.float32),
    'log_mel': rng.normal(size=(5, 8)).astype(np.float32),
    'text': text,
    'cascade_transcript': text,
    'ctc_transcript': text,
    'reference_response': text,
    'audio_response': text,
    'nll': NLL,
  }
  return ReportExample(**values | changes)


def render_page(text):
  """Render a page on which all text from outside is `text`."""
  curves = {text: [(1, 3.0), (2, 1.5)]}
  return render(make_report(text), [make_example(text)], curves, text)


def check_escaped(text):
  page = Page(render_page(text))
  assert page.structure() == Page(render_page(BENIGN)).structure()
  assert page.texts['h1'] == [text] and page.texts['title'][0] == text
  example_id, skipped_id, model = page.texts['code']
  assert example_id == skipped_id == text
  assert json.loads(model) == make_report(text)['model']
  transcript, *hypotheses, reference, response = page.texts['dd']
  assert transcript == reference == response == text
  assert hypotheses == [' '.join(text.split()) or '(nothing)'] * 2
  assert page.texts['td'][-2:] == [text, text]
  assert any(caption.startswith(text) for caption in page.texts['figcaption'])
  assert any(label.startswith(text) for label in page.attributes('aria-label'))
  assert all(url.startswith('data:') for url in page.attributes('src'))


@pytest.mark.parametrize(
  'text',
  [
    '<script>alert(1)</script>',
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '" onmouseover="alert(1)',
    '</title></style></code></pre></svg><script>alert(1)</script>',
    '<!-- ]]> <![CDATA[ -->',
    '&lt;b&gt; &amp; &#60;',
    '{{ 7 * 7 }} {% raw %} {# #} {{ title | safe }}',
    '%s %(a)s %% {0}',
  ],
)
def test_hostile_text_is_escaped(text):
  page = render_page(text)
  assert '<script' not in page
  check_escaped(text)


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.text(st.characters(exclude_categories=['Cc', 'Cs']), min_size=1))
def test_any_text_is_escaped(text):
  check_escaped(text)


def test_hostile_words_that_differ_are_marked():
  hypothesis_text = 'the <script>alert(1)</script> "fox'
  example = make_example(text='the fox', ctc_transcript=hypothesis_text)
  page = Page(render(make_report(), [example], {}, 'title'))
  assert page.texts['mark'] == ['<script>alert(1)</script>']
  assert page.texts['dd'][2] == hypothesis_text


def test_the_page_loads_nothing():
  page = Page(render_page(BENIGN))
  [policy] = [
    attrs['content']
    for _, attrs in page.elements
    if attrs.get('http-equiv') == 'Content-Security-Policy'
  ]
  assert "default-src 'none'" in policy and 'script-src' not in policy
  tags = {tag for tag, _ in page.elements}
  assert not tags & {'script', 'link', 'iframe', 'object', 'embed', 'a', 'form'}
  assert not page.attributes('href')
  assert 'url(' not in page.texts['style'][0]
  assert '@import' not in page.texts['style'][0]


def test_metrics_of_every_condition_are_shown():
  page = Page(render(make_report(), [], {}, 'title'))
  assert tuple(CONDITION_LABELS) == CONDITIONS
  cells = page.texts['td'][: 7 * len(CONDITIONS)]
  rows = {cells[i]: cells[i + 2 : i + 7] for i in range(0, len(cells), 7)}
  assert rows == {
    'Text': ['0.500', '5.000', '100.0%', '–', '–'],
    'Audio': ['1.000', '10.000', '75.0%', '62.5%', '–'],
    'Cascade': ['0.750', '7.500', '87.5%', '87.5%', '6.2%'],
    'CTC cascade': ['1.250', '12.500', '62.5%', '–', '18.8%'],
    'Shuffled audio': ['2.500', '25.000', '0.0%', '–', '–'],
    'No prompt': ['3.500', '35.000', '–', '–', '–'],
  }
  assert page.texts['b'] == ['75.0%', '1.000', '62.5%', '18.8%']
  bars = [label for label in page.texts['text'] if label in rows]
  assert bars == list(rows)
  assert 'audio' not in page.texts and 'polyline' not in page.texts


def test_intervals_are_shown_with_the_verdict():
  page = Page(render(make_report() | {'skipped': []}, [], {}, 'title'))
  cells = page.texts['td'][7 * len(CONDITIONS) :]
  assert [cells[i : i + 5] for i in range(0, len(cells), 5)] == [
    ['Gap closed: Audio', '75.0%', '62.5%', '81.2%', ''],
    ['Gap closed: Cascade', '87.5%', '75.0%', '–', ''],
    ['Nats: Audio − CTC cascade', '-0.250', '-0.500', '-0.125', 'significant'],
    ['Nats: Audio − Cascade', '0.250', '-0.125', '0.500', 'not significant'],
    ['Word errors: Whisper', '6.2%', '3.1%', '12.5%', ''],
  ]


def test_examples_have_audio_spectrogram_and_responses():
  example = make_example(
    'the quick fox',
    cascade_transcript=None,
    ctc_transcript='the fix fox',
    reference_response='yes',
    audio_response='',
  )
  page = Page(render(make_report(), [example] * 3, {}, 'title'))
  sources = [(tag, attrs['src']) for tag, attrs in page.elements if 'src' in attrs]
  assert [tag for tag, _ in sources] == ['audio', 'img'] * 3
  assert sources[0][1].startswith('data:audio/mpeg;base64,')
  assert sources[1][1].startswith('data:image/png;base64,')
  assert page.texts['dd'] == ['the quick fox', 'the fix fox', 'yes', '(nothing)'] * 3
  assert page.texts['mark'] == ['fix'] * 3
  costs = [' '.join(text.split()) for text in page.texts['span'] if 'nats:' in text]
  assert costs == ['nats: text 0.50 · audio 1.00 · cascade 0.75'] * 3


def test_curves_are_drawn():
  curves = {'ctc': [(0, 4.0), (10, 2.0)], 'response': [(5, 1.0), (10, 0.125)]}
  page = Page(render(make_report(), [], curves, 'title'))
  assert len(page.attributes('points')) == 2
  captions = page.texts['figcaption'][-2:]
  assert '2.000' in captions[0] and '0.125' in captions[1]


def test_metrics_that_were_not_measured():
  missing = {'cascade', 'cascade_ctc', 'shuffled_audio'}
  nll = {name: None if name in missing else value for name, value in NLL.items()}
  report = make_report() | {
    'response_nll': nll,
    'response_perplexity': nll,
    'greedy_agreement': {'audio': 0.625, 'cascade': None},
    'wer': {'cascade': None, 'ctc': None},
    'gap_closed': dict.fromkeys(('audio', 'cascade', 'cascade_ctc')),
    'differences': dict.fromkeys(('audio - cascade_ctc', 'audio - cascade')),
    'wer_interval': {'cascade': None, 'ctc': None},
    'skipped': [],
  }
  page = Page(render(report, [], {}, 'title'))
  assert page.texts['text'].count('not measured') == 3
  assert page.texts['b'] == ['–', '1.000', '62.5%', '–']
  assert 'None' not in ' '.join(page.texts['body'])
  assert 'How certain the figures are' not in page.texts['h2']
