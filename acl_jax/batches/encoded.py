# SPDX-License-Identifier: Apache-2.0
"""A corpus as encoder frames, which a frozen encoder computes once, before training.

An interrupted run keeps its complete shards.
"""

import dataclasses
import functools
import json
import operator
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt64

from acl_jax.batches.log_mels import LogMelCorpus, read_or_skip
from acl_jax.batches.padded import group_by_length, pad_to_step
from acl_jax.config.sections import AugmentationConfig
from acl_jax.models.protocols import Encoder
from acl_jax.runtime import barriers
from acl_jax.runtime.files import open_atomically, write_atomically
from acl_jax.sharding.arrays import to_host
from acl_jax.weights.fingerprint import parameters_sha256
from data_pipeline.augment import Augmentation
from data_pipeline.container import pack, unpack
from data_pipeline.line_index import Lines, open_lines
from data_pipeline.mixture import Corpora
from data_pipeline.records import Dataset, Shards, write_shard

INDEX = 'index.jsonl'
SHARD_SIZE = 1_000  # utterances
BARRIER_MINUTES = 120.0  # other processes may have to encode one more shard


class EncodedCorpus(Sequence[dict[str, Any]]):
  """Encoded utterances by index; a `SpeechSource` of encoder frames."""

  subsampling = 1  # stored frames are encoder frames

  def __init__(self, folder: str | Path):
    folder = Path(folder)
    self.info = json.loads((folder / 'frames.json').read_text())
    self.frame_seconds = self.info['frame_seconds']
    lines = open_lines(folder / INDEX, folder / 'frames.json', 'frames', 'int32')
    self.files: Sequence[Lines] = [lines]
    self.numbers = np.arange(len(lines), dtype=np.int32)
    self.ids: Sequence[str] = lines.ids
    self.texts: Sequence[str] = lines.texts
    self.lengths = lines.lengths
    self._shards = Shards(folder, 'frames')
    self.width = self[0]['frames'].shape[1] if len(lines) else 0
    self.broken: set[int] = set()

  def __len__(self) -> int:
    return len(self.lengths)

  @property
  def id_hashes(self) -> UInt64[np.ndarray, ' n']:
    """The hash of every utterance's id."""
    return self.files[0].id_hashes

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    """Return id, text and frames, float16 [u d]."""
    return self.read([operator.index(index)])[0]

  def read(
    self, indices: Collection[SupportsIndex], epoch: int = 0
  ) -> list[dict[str, Any]]:
    """Return id, text and frames [u d] of each utterance, the same in every epoch."""
    del epoch
    records = self._shards.__getitems__(indices)
    return [header | arrays for header, arrays in map(unpack, records)]


def encode_corpus(
  encoder: Encoder,
  dataset: Dataset | Corpora,
  output: str | Path,
  augmentation: AugmentationConfig,
  batch_seconds: float = 16.0,
) -> EncodedCorpus:
  """Encode the shards that are missing in `output`; returns the whole corpus.

  Every process encodes shards of its own. See `LogMelCorpus` for the augmentation and
  for the utterances that are left out.

  batch_seconds: audio per batch, padding included.

  ValueError if `output` was encoded from other data, with another encoder or other
  augmentation.
  """
  output, encoder = Path(output), to_host(encoder)
  output.mkdir(parents=True, exist_ok=True)
  info = {
    'source': dataset.ids_sha256(),
    'encoder': parameters_sha256(encoder),
    'frame_seconds': encoder.config.subsampling * LogMelCorpus.frame_seconds,
    **_describe(augmentation),
  }
  if silence := encoder.config.trailing_silence:
    info['trailing_silence'] = silence
  info = json.loads(json.dumps(info))
  _check_or_write_info(output / 'frames.json', info)
  log_mels = LogMelCorpus(dataset, encoder.config, augmentation)
  frames_per_batch = round(batch_seconds / log_mels.frame_seconds)
  num_shards = -(-len(log_mels) // SHARD_SIZE)
  paths = [
    output / f'frames-{i:05d}-of-{num_shards:05d}.array_record'
    for i in range(num_shards)
  ]
  missing = [i for i, p in enumerate(paths) if not p.with_suffix('.jsonl').exists()]
  barriers.wait('shards to encode', BARRIER_MINUTES)
  hosts, host = jax.process_count(), jax.process_index()
  for shard in missing[host::hosts]:
    start = shard * SHARD_SIZE
    indices = range(start, min(start + SHARD_SIZE, len(log_mels)))
    utterances = _encode_shard(encoder, log_mels, indices, frames_per_batch)
    _write_shard(paths[shard], utterances)
    print(f'encode: shard {shard + 1} of {num_shards}', flush=True)
  barriers.wait('encoded shards', BARRIER_MINUTES)
  if host == 0 and (missing or not (output / INDEX).exists()):
    with open_atomically(output / INDEX) as index:
      for path in sorted(output.glob('frames-*.jsonl')):
        index.write(path.read_text())
  barriers.wait('index of encoded shards', BARRIER_MINUTES)
  return EncodedCorpus(output)


def _write_shard(path: Path, utterances: Sequence[dict[str, Any]]) -> None:
  """Write a shard, then its index, which marks it as complete."""
  records, lines = [], []
  for utterance in utterances:
    header = {'id': utterance['id'], 'text': utterance['text']}
    frames = utterance['frames']
    records.append(pack(header, {'frames': frames}))
    lines.append(json.dumps(header | {'frames': len(frames)}))
  write_shard(path, records)
  write_atomically(path.with_suffix('.jsonl'), ''.join(line + '\n' for line in lines))


def _encode_shard(
  encoder: Encoder, log_mels: LogMelCorpus, indices: range, frames_per_batch: int
) -> list[dict[str, Any]]:
  """Return id, text and encoder frames of the utterances that can be read."""

  def encode(batch: tuple[int, list[dict[str, Any]]]) -> None:
    rows, members = batch
    frames = run_encoder(encoder, [u['frames'] for u in members], rows)
    for utterance, encoded in zip(members, frames, strict=True):
      utterance['frames'] = encoded.astype(np.float16)

  # Both features and encoder use a single core for much of their time.
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    records = pool.map(functools.partial(read_or_skip, log_mels), indices)
    utterances = [record for record in records if record]
    by_length = sorted(utterances, key=_num_frames)
    batches = group_by_length(by_length, _num_frames, frames_per_batch)
    list(pool.map(encode, [*batches]))  # all batches first: `encode` changes lengths
  return utterances


def _num_frames(utterance: dict[str, Any]) -> int:
  return len(utterance['frames'])


def run_encoder(
  encoder: Encoder, log_mels: Sequence[Float[np.ndarray, '_ m']], rows: int
) -> list[Float[np.ndarray, '_ d']]:
  """Encode spectrograms as one batch of `rows` rows; returns frames without padding."""
  padded = pad_to_step(log_mels, rows, encoder.config.max_frames)
  frames, frame_mask = jax.device_get(_encode(encoder, *padded))
  lengths = frame_mask.sum(axis=1)[: len(log_mels)]
  return [row[:length] for row, length in zip(frames, lengths, strict=False)]


@jax.jit
def _encode(encoder, log_mel, frame_mask):
  return encoder(jnp.asarray(log_mel), frame_mask)


def _describe(augmentation: AugmentationConfig) -> dict[str, Any]:
  """Return all settings, of the effects only those that differ from their defaults.

  Frames thus stay valid when a version adds an effect that is off by default.
  """
  description = dataclasses.asdict(augmentation)
  if augmentation.augmentation is not None:
    defaults = {f.name: f.default for f in dataclasses.fields(Augmentation)}
    description['augmentation'] = {
      name: value
      for name, value in description['augmentation'].items()
      if value != defaults[name]
    }
  return description


def _check_or_write_info(path: Path, info: dict[str, Any]) -> None:
  """Write what determines the frames; ValueError if the file has other values."""
  if not path.exists():
    if jax.process_index() == 0:
      write_atomically(path, json.dumps(info, indent=1))
    return
  stored = json.loads(path.read_text())
  for key, value in info.items():
    if stored.get(key) != value:
      raise ValueError(
        f'{path.parent} was encoded with {key} {stored.get(key)!r}, not {value!r}.'
        ' Choose another folder, or delete this one'
      )
