# SPDX-License-Identifier: Apache-2.0
"""CPU time of every effect of augmentation, in ms per second of audio.

  .venv/bin/python benchmarks/augmentation.py

Reads real speech from FLAC shards with `LogMelCorpus`, as training does, with one
effect at a time, with the shares in `TYPICAL`, and without any; the difference is the
cost of the effect. Babble thus includes reading the other utterances. CPU time counts
all threads. The last line is JSON.
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.batches.log_mels import LogMelCorpus
from acl_jax.config.sections import AugmentationConfig
from acl_jax.models.whisper import WhisperConfig
from benchmarks.machine import print_result
from benchmarks.mls_like import make_corpus
from data_pipeline.augment import Augmentation
from data_pipeline.prepare import prepare
from data_pipeline.records import Dataset

ENCODER = WhisperConfig(
  num_mel_bins=80,
  d_model=512,
  encoder_layers=6,
  encoder_attention_heads=8,
  encoder_ffn_dim=2_048,
  max_source_positions=1_500,
)
OFF = Augmentation(0.0, 0.0, (0.0, 25.0), 0.0)
TYPICAL = dict(
  speed=0.1,
  noise_share=0.2,
  telephone_share=0.1,
  reverberation_share=0.3,
  babble_share=0.25,
  music_share=0.15,
  recorded_share=0.15,
  clipping_share=0.1,
  line_share=0.1,
  mu_law_share=0.5,
  codec_share=0.1,
)


def make_settings(noise_folder: Path) -> dict[str, Augmentation | None]:
  """Return the settings to measure, by name."""
  folders = (str(noise_folder),)
  effects = [
    *('noise', 'telephone', 'reverberation', 'babble', 'music', 'recorded'),
    *('clipping', 'line', 'codec'),
  ]
  settings: dict[str, Augmentation | None] = {'none': None, 'off': OFF}
  for effect in effects:
    shares = {f'{effect}_share': 1.0, 'noise_folders': folders}
    settings[effect] = dataclasses.replace(OFF, **shares)
  for codec in OFF.codecs:
    settings[codec] = dataclasses.replace(OFF, codec_share=1.0, codecs=(codec,))
  del settings['codec']
  settings['typical'] = dataclasses.replace(OFF, noise_folders=folders, **TYPICAL)
  return settings


def cpu_milliseconds(dataset: Dataset, settings: Augmentation | None) -> float:
  """Return the CPU time of reading every utterance once, per second of audio."""
  log_mels = LogMelCorpus(dataset, ENCODER, AugmentationConfig(settings))
  seconds = sum(log_mels.lengths) * ENCODER.subsampling * log_mels.frame_seconds
  start = time.process_time()
  for index in range(len(log_mels)):
    log_mels.read([index])
  return 1e3 * (time.process_time() - start) / float(seconds)


def measure(
  folder: Path, utterances: int, rounds: int, step: float
) -> dict[str, float]:
  """Time alternating rounds; returns ms per second of audio over no augmentation.

  `share_of_step` is that of `typical` over `step`, as if no core were idle.
  """
  corpus = make_corpus(folder / 'corpus', utterances)
  prepare('mls', corpus, folder / 'prepared')
  dataset = Dataset(folder / 'prepared')
  settings = make_settings(corpus)
  best = dict.fromkeys(settings, float('inf'))
  for number in range(rounds):
    for name, augmentation in settings.items():
      best[name] = min(best[name], cpu_milliseconds(dataset, augmentation))
    print(f'round {number + 1}/{rounds}', flush=True)
  off, none = best.pop('off'), best.pop('none')
  result = {'read_and_log_mel': none, 'resampler_and_generators': off - none}
  result |= {name: value - off for name, value in best.items() if name != 'typical'}
  result['typical'] = best['typical'] - none
  return result | {'share_of_step': result['typical'] / step}


def main(argv: list[str]) -> None:
  """Print the measurements."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    result = measure(
      Path(folder), flags.FLAGS.utterances, flags.FLAGS.rounds, flags.FLAGS.step
    )
  print_result({name: float(f'{value:.3g}') for name, value in result.items()})


if __name__ == '__main__':
  flags.DEFINE_integer('utterances', 60, 'of 2 to 20 s', 4)
  flags.DEFINE_integer('rounds', 3, 'of which the fastest counts', 1)
  flags.DEFINE_float('step', 110.0, 'ms of a training step per second of audio')
  app.run(main)
