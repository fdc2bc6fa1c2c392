# SPDX-License-Identifier: Apache-2.0
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acl_jax import evaluate as program
from acl_jax.evaluate import check_skipped, evaluate, format_table
from acl_jax.evaluation import answers, report
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.evaluation.examples import CONDITIONS
from acl_jax.generation.engine import Engine

ROOT = Path(__file__).parent.parent.parent


class Whisper(Recogniser):
  """In the place of the recogniser."""

  sha256 = '0' * 64

  def __init__(self, folder):
    pass

  def __call__(self, sound):
    return '<script>alert(2)</script> the band'


@pytest.fixture
def run(parts, manifest, tmp_path, monkeypatch):
  monkeypatch.setattr(program, 'Recogniser', Whisper)

  def run(**options):
    options = {'checkpoint': str(tmp_path), 'cascade': str(tmp_path)} | options
    return evaluate(parts, manifest, tmp_path / 'out', **options)

  return run


def test_the_reports(run, add, manifest, tmp_path):
  add(id='<script>', text='<script>alert(1)</script>')
  add(id='gone', audio_filepath='none.wav')
  metrics = [{'stage': '<b>ctc', 'step': i, 'loss': 1 / i} for i in range(1, 9)]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, metrics)))
  summary = run()
  assert summary == json.loads((tmp_path / 'out/report.json').read_text())
  keys = 'examples response_nll response_perplexity greedy_agreement wer model skipped'
  assert list(summary) == keys.split()
  assert summary['examples'] == 6
  nll, perplexity = summary['response_nll'], summary['response_perplexity']
  assert tuple(nll) == tuple(perplexity) == CONDITIONS
  assert all(math.exp(nll[name]) == perplexity[name] for name in CONDITIONS)
  assert list(summary['greedy_agreement']) == ['audio', 'cascade']
  assert list(summary['wer']) == ['cascade', 'ctc']
  assert summary['model']['adapter']['kind'] == 'ctc'
  assert len(summary['model']['adapter']['sha256']) == 64
  [skipped] = summary['skipped']
  assert skipped['id'] == 'gone' and 'none.wav' in skipped['reason']
  # The frozen LLM's own greedy answer is what it would take itself.
  assert nll['text'] < nll['no_prompt']
  page = (tmp_path / 'out/report.html').read_text()
  assert '<script' not in page and '&lt;script&gt;alert(1)' in page
  assert '<b>ctc' not in page and page.count('<audio') == 6
  assert 'http' not in page.replace('http-equiv', '')
  assert 'cascade_ctc' in format_table(summary)
  with pytest.raises(ValueError, match=r'1 of 7 examples were skipped.*none\.wav'):
    check_skipped(summary, 0.05, str(manifest))
  check_skipped(summary, 0.2, str(manifest))


def test_a_second_run_asks_the_llm_for_no_reference(run, monkeypatch):
  first = run()
  made = []

  class Counted(Engine):
    def __init__(self, *args, **options):
      made.append(args[1])
      super().__init__(*args, **options)

  monkeypatch.setattr(answers, 'Engine', Counted)
  assert run() == first
  assert len(made) == 1  # the answers to the audio that the page shows


def test_one_example_without_cascade(run):
  summary = run(limit=1, cascade='none')
  missing = {'shuffled_audio', 'cascade'}
  assert {k for k, v in summary['response_nll'].items() if v is None} == missing
  assert summary['greedy_agreement']['cascade'] is None
  assert summary['wer']['cascade'] is None and summary['wer']['ctc'] is not None
  assert summary['model']['cascade'] is None


def test_a_long_recording_and_a_long_text_are_skipped(run, add, tmp_path):
  soundfile.write(tmp_path / 'long.wav', np.zeros(48_100), 16_000)
  add(id='long', audio_filepath='long.wav')
  add(id='wordy', text='the quick brown fox ' * 40)
  reasons = {skip['id']: skip['reason'] for skip in run()['skipped']}
  assert 'duration is over the limit of 3 s' in reasons['long']
  assert 'text makes a prompt of' in reasons['wordy']


def test_nothing_to_use_is_an_error(run, manifest):
  manifest.write_text('{"text": 1}\n')
  with pytest.raises(ValueError, match='none of 1 examples can be used; the first: '):
    run()


def test_metrics_that_are_none(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"stage": "ctc", "step": 1, "loss": NaN}\n{"step": 2}\n')
  with pytest.raises(ValueError, match='line 2: is no metrics'):
    report.read_curves(path)


def test_a_bad_manifest_ends_in_one_sentence(tmp_path):
  (tmp_path / 'm.jsonl').write_text('{"audio_filepath": "x.wav", "text"\n')
  command = [sys.executable, '-m', 'acl_jax.evaluate', '--config=configs/smol.py']
  command += [f'--manifest={tmp_path}/m.jsonl', f'--output={tmp_path}/out']
  done = subprocess.run(
    [*command, '--cascade=none'], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 1
  [line] = done.stderr.splitlines()
  assert line.startswith('error: ') and 'line 1: line is not JSON' in line
