# SPDX-License-Identifier: Apache-2.0
"""`kill -9` at random moments of a training, and whether its result is still the same.

  .venv/bin/python benchmarks/kill.py [--trials=100]

A tiny Conformer is pretrained by the real program, `python -m acl_jax.pretrain`. A run
is killed several times, each time started again, and left to end. A fifth of the
moments are drawn from all the time that a start takes, loading and compiling included;
the others come some steps later, half of these as soon as a save has begun. A trial,
which is a kill, is survived if the run ends with the parameters, optimizer state,
averages and metrics of a run that nobody touched, to the last bit. The last line is
JSON.
"""

import collections
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import soundfile
from absl import app, flags, logging

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.training.metrics import TIME_METRICS
from data_pipeline.prepare import prepare

_TRIALS = flags.DEFINE_integer('trials', 20, 'how often to kill', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'of the moments')

ROOT = Path(__file__).parent.parent
KILLS = 5  # of a run
STEPS, SAVE_EVERY, LOG_EVERY = 80, 4, 1
SOON = 10  # steps, within which a start is killed if it comes to any
JITTER = 0.02  # s
WORDS = ('yes', 'no', 'go on', 'stop now', 'left', 'right', 'oh no', 'yes yes', 'on')
CONFIG = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict({config!r}).lock()
"""


def make_world(folder: Path) -> Path:
  """A prepared corpus of tones and the config of a training on it, which it returns."""
  (folder / 'corpus').mkdir(parents=True)
  lines = []
  for i, text in enumerate(WORDS):
    seconds = np.arange(4_800 + 800 * i) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * i) * seconds)
    soundfile.write(folder / f'corpus/{i}.flac', tone, 16_000)
    lines.append({'audio_filepath': f'{i}.flac', 'text': text, 'id': f'u{i}'})
  manifest = folder / 'corpus/manifest.jsonl'
  manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  prepare('manifest', manifest, folder / 'prepared')
  config = folder / 'config.py'
  config.write_text(CONFIG.format(config=config_of(folder)))
  return config


def config_of(folder: Path) -> dict[str, Any]:
  """A model of a thousand parameters, augmented and averaged as a large one."""
  sizes = dict(
    features='kaldi',
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    conv_kernel_size=3,
    subsampling_conv_channels=8,
    num_mel_bins=80,
    subsampling_factor=2,
    dropout=0.1,
  )
  return dict(
    seed=0,
    mesh=dict(data=-1, fsdp=1, tensor=1),
    init_from='',
    vocabulary_size=20,
    max_piece_length=16,
    encoder=dict(kind='conformer', sizes=sizes),
    data=dict(
      train=str(folder / 'prepared'), dev='', copies=1, row_frames=None, buckets=(50,)
    ),
    augmentation=dict(
      speed=0.1, noise_share=0.5, noise_snr=(5.0, 30.0), telephone_share=0.25
    ),
    masking=None,
    ctc=dict(
      steps=STEPS,
      frames_per_batch=100,
      average_decay=0.5,
      letters=dict(layer=1, per_frame=2, weight=0.5),
      remat=None,
      peak_lr=3e-3,
      warmup_steps=2,
      weight_decay=0.01,
      clip_norm=1.0,
      skip_spikes=True,
      log_every=LOG_EVERY,
      save_every=SAVE_EVERY,
    ),
  )


def start(config: Path, workdir: Path) -> subprocess.Popen:
  """The program, from its beginning or from where it was killed."""
  return subprocess.Popen(
    [sys.executable, '-m', 'acl_jax.pretrain', f'--config={config}']
    + [f'--workdir={workdir}'],
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': str(config.parent / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def end(config: Path, workdir: Path) -> float:
  """Lets it run to its end; returns how long that took. RuntimeError if it fails."""
  begin, process = time.monotonic(), start(config, workdir)
  _, said = process.communicate()
  if process.returncode:
    raise RuntimeError(said)
  return time.monotonic() - begin


def kill(config: Path, workdir: Path, rng: np.random.Generator, seconds: float) -> str:
  """Starts it and kills it; returns what that hit, '' if it had ended.

  seconds: what the whole training takes.
  """
  process = start(config, workdir)
  assert process.stdout
  saving = lambda: any(workdir.glob('ctc/*.orbax-checkpoint-tmp'))  # noqa: E731
  if (kind := rng.random()) < 0.2:
    time.sleep(rng.uniform(0, 0.7 * seconds))
  else:
    lines = (line for line in process.stdout if line.startswith('ctc ') and '/' in line)
    for _ in zip(range(rng.integers(1, SOON)), lines, strict=False):
      pass
    while kind < 0.6 and process.poll() is None and not saving():
      time.sleep(0.0005)
    time.sleep(rng.uniform(0, JITTER))
  process.send_signal(signal.SIGKILL)
  process.communicate()
  if process.returncode != -signal.SIGKILL:
    return ''
  if saving():
    return 'a save'
  return 'a step' if kind >= 0.2 else 'the start'


def result(workdir: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
  """Every array of the last checkpoint, and the metrics, but for times."""
  last = workdir / 'ctc' / str(STEPS)
  with ocp.StandardCheckpointer() as checkpointer:
    arrays = ocp.tree.to_flat_dict(checkpointer.restore(last.absolute()), sep='/')
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  metrics = [
    {k: v for k, v in json.loads(line).items() if k not in TIME_METRICS}
    for line in lines
  ]
  found = {name: np.asarray(value).tobytes() for name, value in arrays.items()}
  weights = workdir / 'encoder/model.safetensors'
  return found | {'encoder': weights.read_bytes()}, metrics


def run(folder: Path, trials: int, seed: int) -> tuple[int, int]:
  """Kills so often; how many kills there were, and how many were survived."""
  rng, config = np.random.default_rng(seed), make_world(folder)
  seconds = end(config, folder / 'untouched')
  expected, done, survived = result(folder / 'untouched'), 0, 0
  hits = collections.Counter()
  while done < trials:
    workdir, most = folder / f'killed-{done}', min(KILLS, trials - done)
    attempts = (kill(config, workdir, rng, seconds) for _ in range(most))
    hit = [*itertools.takewhile(bool, attempts)]
    end(config, workdir)
    same = result(workdir) == expected
    done, survived = done + len(hit), survived + same * len(hit)
    verdict = 'the same result' if same else 'ANOTHER RESULT'
    print(f'{done}/{trials} killed in {", ".join(hit)}: {verdict}', flush=True)
    hits.update(hit)
    shutil.rmtree(workdir)
  print(', '.join(f'{hit}: {count}' for hit, count in hits.items()), flush=True)
  return done, survived


def main(argv: list[str]) -> None:
  """Prints the figures."""
  del argv
  logging.set_verbosity(logging.WARNING)
  jax.config.update('jax_platforms', 'cpu')
  with tempfile.TemporaryDirectory() as folder:
    trials, survived = run(Path(folder), _TRIALS.value, _SEED.value)
  print(json.dumps({'trials': trials, 'survived': survived}))


if __name__ == '__main__':
  app.run(main)
