# SPDX-License-Identifier: Apache-2.0
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acl_jax import evaluate as program
from acl_jax.evaluate import Options, check_skipped, evaluate, format_table
from acl_jax.evaluation import responses
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.evaluation.examples import CONDITIONS
from acl_jax.generation.engine import Engine
from acl_jax.runtime import locks

ROOT = Path(__file__).parent.parent.parent


class StubRecogniser(Recogniser):
  """Recognises the same hostile text in every utterance."""

  sha256 = '0' * 64

  def __init__(self, folder):
    pass

  def __call__(self, waveform):
    return '<script>alert(2)</script> the band'


@pytest.fixture
def run(toy_config, manifest, tmp_path, monkeypatch):
  monkeypatch.setattr(program, 'Recogniser', StubRecogniser)

  def run(**options):
    options = {'checkpoint': str(tmp_path), 'cascade': str(tmp_path)} | options
    return evaluate(toy_config, manifest, tmp_path / 'out', Options(**options))

  return run


def test_an_output_of_another_program_is_refused(run, tmp_path):
  with locks.own_folder(tmp_path / 'out'):
    with pytest.raises(ValueError, match=r'out: .* is writing here'):
      run()


def test_both_reports(run, add_entry, manifest, tmp_path):
  add_entry(id='<script>', text='<script>alert(1)</script>')
  add_entry(id='gone', audio_filepath='none.wav')
  metrics = [{'stage': '<b>ctc', 'step': i, 'loss': 1 / i} for i in range(1, 9)]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, metrics)))
  summary = run()
  assert summary == json.loads((tmp_path / 'out/report.json').read_text())
  assert list(summary) == [
    'examples',
    'response_nll',
    'response_perplexity',
    'greedy_agreement',
    'wer',
    'wer_left_out',
    'gap_closed',
    'differences',
    'wer_interval',
    'model',
    'skipped',
    'noise',
    'without_speech',
  ]
  assert summary['noise'] is None
  silent = summary['without_speech']
  assert silent['count'] == len(silent['ids']) and 'gone' not in silent['ids']
  assert summary['examples'] == 6
  nll, perplexity = summary['response_nll'], summary['response_perplexity']
  assert tuple(nll) == tuple(perplexity) == CONDITIONS
  assert all(math.exp(nll[name]) == perplexity[name] for name in CONDITIONS)
  assert list(summary['greedy_agreement']) == ['audio', 'cascade']
  assert list(summary['wer']) == list(summary['wer_interval']) == ['cascade', 'ctc']
  for name, rate in summary['wer'].items():
    assert summary['wer_interval'][name]['value'] == pytest.approx(rate)
  difference = summary['differences']['audio - cascade']
  assert difference['nats'] == pytest.approx(nll['audio'] - nll['cascade'])
  assert difference['low'] < difference['high']
  assert summary['model']['adapter']['kind'] == 'ctc'
  assert len(summary['model']['adapter']['sha256']) == 64
  [skipped] = summary['skipped']
  assert skipped['id'] == 'gone' and 'none.wav' in skipped['reason']
  # The reference responses are the frozen LLM's own greedy responses to the text.
  assert nll['text'] < nll['no_prompt']
  page = (tmp_path / 'out/report.html').read_text()
  assert '<script' not in page and '&lt;script&gt;alert(1)' in page
  assert 'Nats: Audio − CTC cascade' in page
  assert '<b>ctc' not in page and page.count('<audio') == 6
  assert 'http' not in page.replace('http-equiv', '')
  assert 'cascade_ctc' in format_table(summary)
  error = r'\b1\b.*\b7\b.*--max_skipped.*0\.05\b.*none\.wav'
  with pytest.raises(ValueError, match=error):
    check_skipped(summary, 0.05, str(manifest))
  check_skipped(summary, 0.2, str(manifest))


def test_reference_responses_are_cached(run, monkeypatch):
  first = run()
  engine_configs = []

  class CountingEngine(Engine):
    def __init__(self, llama, config, **options):
      engine_configs.append(config)
      super().__init__(llama, config, **options)

  monkeypatch.setattr(responses, 'Engine', CountingEngine)
  assert run() == first
  assert len(engine_configs) == 1  # the responses to audio in report.html


def test_babble_is_in_the_audio_of_the_model_and_of_the_cascade(
  run, monkeypatch, tmp_path
):
  heard = []

  class Listener(StubRecogniser):
    def __call__(self, waveform):
      heard.append(waveform)
      return super().__call__(waveform)

  monkeypatch.setattr(program, 'Recogniser', Listener)
  clean = run()
  noisy = run(babble_snr=10.0)
  assert noisy['noise'] == {'kind': 'babble', 'snr': 10.0, 'talkers': 5}
  assert 'in babble at 10 dB' in (tmp_path / 'out/report.html').read_text()
  assert noisy['response_nll']['text'] == clean['response_nll']['text']
  assert noisy['response_nll']['audio'] != clean['response_nll']['audio']
  assert len(heard) == 10  # no transcript of clean audio stands for a noisy one
  for plain, mixed in zip(heard[:5], heard[5:], strict=True):
    gain = 1 / max(1, np.abs(plain).max())
    snr = np.mean(plain**2) / np.mean((mixed / gain - plain) ** 2)
    assert 10 * np.log10(snr) == pytest.approx(10, abs=0.5)
  assert run(babble_snr=10.0) == noisy
  assert len(heard) == 10  # the same noise again, so the cached transcripts
  run(babble_snr=5.0)
  assert len(heard) == 15


def test_one_example_without_cascade(run):
  summary = run(limit=1, cascade='none')
  missing = {'shuffled_audio', 'cascade'}
  assert {k for k, v in summary['response_nll'].items() if v is None} == missing
  assert summary['greedy_agreement']['cascade'] is None
  assert summary['wer']['cascade'] is None and summary['wer']['ctc'] is not None
  assert summary['model']['cascade'] is None
  for key in ('gap_closed', 'differences', 'wer_interval'):
    assert not any(summary[key].values())


def test_audio_may_be_outside_the_folder_of_the_manifest(
  run, manifest, tmp_path, tmp_path_factory
):
  expected = run()
  entries = [json.loads(line) for line in manifest.read_text().splitlines()]
  folder = tmp_path_factory.mktemp('elsewhere')
  for entry in entries:
    path = tmp_path / entry['audio_filepath']
    entry['audio_filepath'] = str(path.rename(folder / path.name))
  manifest.write_text('\n'.join(map(json.dumps, entries)))
  (tmp_path / 'out/cache').rename(folder / 'cache')  # nothing is known from before
  assert run() == expected


def test_utterances_that_are_too_long_are_skipped(run, add_entry, tmp_path):
  soundfile.write(tmp_path / 'long.wav', np.zeros(301 * 8_000), 8_000)
  add_entry(id='long', audio_filepath='long.wav')
  add_entry(id='wordy', text='the quick brown fox ' * 40)
  reasons = {skipped['id']: skipped['reason'] for skipped in run()['skipped']}
  assert set(reasons) == {'long', 'wordy'}
  assert re.search(r'duration.*\b300 s', reasons['long'])
  assert re.search(r'`text`.*context of 220\b', reasons['wordy'])


@pytest.mark.parametrize(
  'content, options, match',
  [
    ('{"text": 1}\n', {}, r'manifest\.jsonl.*\b1\b.*line 1: audio_filepath'),
    ('{"text"\n', {}, r'manifest\.jsonl.*\b1\b.*line 1: line is not JSON'),
    ('{"text"\n', {'suite': ['spoken_qa']}, r'manifest\.jsonl.*line 1: .*not JSON'),
    ('{"audio_filepath": "0.wav", "text": " "}\n', {}, r'\b1\b.*text is empty'),
    (None, {'limit': 1, 'babble_snr': 10.0}, r'--babble_snr=10 needs .* 2 .* are 1'),
    (None, {'cascade': 'nowhere'}, 'nowhere'),
  ],
)
def test_what_cannot_be_used_is_refused_before_a_model_is_loaded(
  run, manifest, monkeypatch, content, options, match
):
  monkeypatch.setattr(program, 'load', None)
  if content is not None:
    manifest.write_text(content)
  with pytest.raises((ValueError, FileNotFoundError), match=match):
    run(**options)


def test_malformed_metrics_raise_before_a_model_is_loaded(run, monkeypatch, tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"stage": "ctc", "step": 1, "loss": NaN}\n{"step": 2}\n')
  monkeypatch.setattr(program, 'load', None)
  with pytest.raises(ValueError, match=r'metrics\.jsonl line 2\b.*stage'):
    run()


@pytest.mark.full
def test_a_malformed_manifest_exits_with_one_line(tmp_path):
  (tmp_path / 'm.jsonl').write_text('{"audio_filepath": "x.wav", "text"\n')
  command = [
    sys.executable,
    '-m',
    'acl_jax.evaluate',
    '--config=configs/smol.py',
    f'--manifest={tmp_path}/m.jsonl',
    f'--output={tmp_path}/out',
    '--cascade=none',
  ]
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert process.returncode == 1
  [line] = process.stderr.splitlines()
  assert line.startswith('error: ') and 'line 1: line is not JSON' in line
