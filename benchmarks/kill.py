# SPDX-License-Identifier: Apache-2.0
"""`kill -9` a training at random moments, and check that its result does not change.

  .venv/bin/python benchmarks/kill.py [--trials=100]

The program `python -m acl_jax.pretrain` trains a tiny Conformer. Each run is killed and
started again several times, then completes. A fifth of the kills come at any time after
the start, which includes loading and compiling; the others come after some steps, half
of these as soon as a save begins. A trial is one kill. It counts as survived if the run
ends with exactly the parameters, optimizer state, averages and metrics of a run
without kills. The last line is JSON.
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
from benchmarks.machine import print_result
from data_pipeline.prepare import prepare

ROOT = Path(__file__).parent.parent
KILLS = 5  # per run
STEPS, SAVE_EVERY, LOG_EVERY = 80, 4, 1
MAX_STEPS = 10  # until a kill that waits for steps
JITTER = 0.02  # seconds between that step or save and the kill
WORDS = ('yes', 'no', 'go on', 'stop now', 'left', 'right', 'oh no', 'yes yes', 'on')
CONFIG = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict({config!r}).lock()
"""


def make_world(folder: Path) -> Path:
  """Prepare a corpus of tones; return the path of a config that trains on it."""
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
  """Return the config of a tiny model that uses augmentation and averaging."""
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


def environment(config: Path) -> dict[str, str]:
  """Return the environment of a run: a fast compiler, and a cache that all share."""
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(config.parent / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
  }


def start(config: Path, workdir: Path) -> subprocess.Popen:
  """Start the program, which resumes if `workdir` has checkpoints."""
  return subprocess.Popen(
    [sys.executable, '-m', 'acl_jax.pretrain', f'--config={config}']
    + [f'--workdir={workdir}'],
    cwd=ROOT,
    env=environment(config),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def complete(config: Path, workdir: Path) -> float:
  """Run the program to its end; return the seconds. RuntimeError if it fails."""
  begin, process = time.monotonic(), start(config, workdir)
  _, errors = process.communicate()
  if process.returncode:
    raise RuntimeError(errors)
  return time.monotonic() - begin


def kill(config: Path, workdir: Path, rng: np.random.Generator, seconds: float) -> str:
  """Start the program and kill it; return what the kill hit, '' if it came too late.

  Args:
    config: The config of the training.
    workdir: Its workdir.
    rng: Draws the moment.
    seconds: Duration of the whole training.
  """
  process = start(config, workdir)
  assert process.stdout

  def is_saving() -> bool:
    return any(workdir.glob('ctc/*.orbax-checkpoint-tmp'))

  if (kind := rng.random()) < 0.2:
    time.sleep(rng.uniform(0, 0.7 * seconds))
  else:
    lines = (line for line in process.stdout if line.startswith('ctc ') and '/' in line)
    for _ in zip(range(rng.integers(1, MAX_STEPS)), lines, strict=False):
      pass
    while kind < 0.6 and process.poll() is None and not is_saving():
      time.sleep(0.0005)
    time.sleep(rng.uniform(0, JITTER))
  process.send_signal(signal.SIGKILL)
  process.communicate()
  if process.returncode != -signal.SIGKILL:
    return ''
  if is_saving():
    return 'a save'
  return 'a step' if kind >= 0.2 else 'the start'


def result(workdir: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
  """Return every array of the last checkpoint, and the metrics without times."""
  last = workdir / 'ctc' / str(STEPS)
  with ocp.StandardCheckpointer() as checkpointer:
    arrays = ocp.tree.to_flat_dict(checkpointer.restore(last.absolute()), sep='/')
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  metrics = [
    {k: v for k, v in json.loads(line).items() if k not in TIME_METRICS}
    for line in lines
  ]
  contents = {name: np.asarray(value).tobytes() for name, value in arrays.items()}
  weights = workdir / 'encoder/model.safetensors'
  return contents | {'encoder': weights.read_bytes()}, metrics


def run(folder: Path, trials: int, seed: int) -> tuple[int, int]:
  """Kill `trials` times; return how many kills there were, and how many survived."""
  rng, config = np.random.default_rng(seed), make_world(folder)
  seconds = complete(config, folder / 'undisturbed')
  expected = result(folder / 'undisturbed')
  kills = survived = 0
  counts = collections.Counter()
  while kills < trials:
    workdir = folder / f'killed-{kills}'
    limit = min(KILLS, trials - kills)
    attempts = (kill(config, workdir, rng, seconds) for _ in range(limit))
    hits = list(itertools.takewhile(bool, attempts))
    complete(config, workdir)
    is_same = result(workdir) == expected
    kills += len(hits)
    survived += is_same * len(hits)
    verdict = 'same result' if is_same else 'DIFFERENT RESULT'
    print(f'{kills}/{trials} killed in {", ".join(hits)}: {verdict}', flush=True)
    counts.update(hits)
    shutil.rmtree(workdir)
  print(', '.join(f'{hit}: {count}' for hit, count in counts.items()), flush=True)
  return kills, survived


def main(argv: list[str]) -> None:
  """Run the trials; print how many were survived."""
  del argv
  logging.set_verbosity(logging.WARNING)
  jax.config.update('jax_platforms', 'cpu')
  with tempfile.TemporaryDirectory() as folder:
    trials, survived = run(Path(folder), flags.FLAGS.trials, flags.FLAGS.seed)
  print_result({'trials': trials, 'survived': survived})


if __name__ == '__main__':
  # Defined here: programs have flags of the same names.
  flags.DEFINE_integer('trials', 20, 'number of kills', lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'seed of the moments')
  app.run(main)
