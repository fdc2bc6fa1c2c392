# SPDX-License-Identifier: Apache-2.0
"""What a frozen encoder makes of a corpus, computed once and kept.

Training then reads frames and never runs the encoder. A stopped run keeps its finished
shards.
"""

import dataclasses
import functools
import hashlib
import json
import operator
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from acl_jax.batches.log_mels import AugmentationConfig, LogMelCorpus, read_or_skip
from acl_jax.models.speech_llm import Encoder
from acl_jax.runtime import barriers, preemption
from acl_jax.runtime.files import write_atomically
from acl_jax.runtime.program import Preempted
from acl_jax.runtime.rounding import round_up
from acl_jax.sharding.arrays import to_host
from data_pipeline.batches import pad_frames
from data_pipeline.container import pack, unpack
from data_pipeline.mixture import Corpora
from data_pipeline.records import Dataset, Shards, write_shard

SHARD_SIZE = 1_000  # recordings
BARRIER_MINUTES = (
  120.0  # to wait for the other processes, who may have one more to encode
)
LENGTH_STEP = (
  64  # log-mel frames; a batch is padded to a multiple, to compile few shapes
)


class EncodedCorpus(Sequence[dict[str, Any]]):
  """Encoded recordings: `.ids .texts .lengths` (frames) of all, and each by index."""

  subsampling = 1  # they are encoder frames already

  def __init__(self, folder: str | Path):
    folder = Path(folder)
    self.info = json.loads((folder / 'frames.json').read_text())
    lines = (folder / 'index.jsonl').read_text().splitlines()
    index = [json.loads(line) for line in lines]
    self.frame_seconds = self.info['frame_seconds']
    self.ids = [line['id'] for line in index]
    self.texts = [line['text'] for line in index]
    self.lengths = np.asarray([line['frames'] for line in index], np.int32)
    self._shards = Shards(folder, 'frames')
    self.width = self[0]['frames'].shape[1] if index else 0
    self.broken: set[int] = set()  # what could not be read so far

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    """id, text, and frames: float16 [t d]."""
    return self.read([operator.index(index)])[0]

  def read(
    self, indices: Collection[SupportsIndex], epoch: int = 0
  ) -> list[dict[str, Any]]:
    """Many at once; they were computed once, so every epoch has the same."""
    del epoch
    found = (unpack(record) for record in self._shards.__getitems__(indices))
    return [header | arrays for header, arrays in found]


def encode_corpus(
  encoder: Encoder,
  dataset: Dataset | Corpora,
  output: str | Path,
  how: AugmentationConfig,
  batch_seconds: float = 16.0,
) -> EncodedCorpus:
  """Encodes every recording that is not encoded yet; returns all of them.

  See `LogMels` for changes and for what is left out. Raises `Preempted` after a shard,
  if the machine is taken away. Every process encodes shards of its own.
  """
  output, encoder = Path(output), to_host(encoder)
  output.mkdir(parents=True, exist_ok=True)
  info = {
    'source': hashlib.sha256('\n'.join(dataset.ids).encode()).hexdigest(),
    'encoder': parameters_sha256(encoder),
    'frame_seconds': encoder.config.subsampling * LogMelCorpus.frame_seconds,
    **dataclasses.asdict(how),
  }
  info = json.loads(json.dumps(info))
  _check_or_write_info(output / 'frames.json', info)
  log_mels = LogMelCorpus(dataset, encoder.config, how)
  shards = -(-len(log_mels) // SHARD_SIZE)
  paths = [
    output / f'frames-{i:05d}-of-{shards:05d}.array_record' for i in range(shards)
  ]
  missing = [i for i, p in enumerate(paths) if not p.with_suffix('.jsonl').exists()]
  barriers.wait('shards to encode', BARRIER_MINUTES)
  hosts, host = jax.process_count(), jax.process_index()
  for first in range(0, len(missing), hosts):
    for shard in missing[first + host : first + host + 1]:
      start = shard * SHARD_SIZE
      mine = range(start, min(start + SHARD_SIZE, len(log_mels)))
      done = _encode(encoder, log_mels, mine, int(100 * batch_seconds))
      _write_shard(paths[shard], done)
      print(f'encode: shard {shard + 1} of {shards}', flush=True)
    if preemption.is_requested():
      raise Preempted(f'encoding after shard {missing[first] + 1}')
  barriers.wait('encoded shards', BARRIER_MINUTES)
  if host == 0:
    notes = sorted(output.glob('frames-*.jsonl'))
    write_atomically(
      output / 'index.jsonl', ''.join(note.read_text() for note in notes)
    )
  barriers.wait('index of encoded shards', BARRIER_MINUTES)
  return EncodedCorpus(output)


def _write_shard(path: Path, found: Sequence[dict[str, Any]]) -> None:
  """Recordings, and then what says that they are there."""
  write_shard(
    path,
    [pack({'id': r['id'], 'text': r['text']}, {'frames': r['frames']}) for r in found],
  )
  lines = (
    json.dumps({'id': r['id'], 'text': r['text'], 'frames': len(r['frames'])})
    for r in found
  )
  write_atomically(path.with_suffix('.jsonl'), ''.join(line + '\n' for line in lines))


def parameters_sha256(module: nnx.Module) -> str:
  """The sha256 of a module's parameters."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(nnx.state(module)):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def _encode(
  encoder: Encoder, log_mels: LogMelCorpus, indices: range, budget: int
) -> list[dict[str, Any]]:
  """The recordings of one shard, their log-mel frames replaced by the encoder's."""

  def run(batch: tuple[int, list[int]]) -> None:
    rows, members = batch
    frames = run_encoder(encoder, [found[i]['frames'] for i in members], rows)
    for i, mine in zip(members, frames, strict=True):
      found[i]['frames'] = mine.astype(np.float16)

  # Threads, as much of this is the work of one core at a time, the encoder's too.
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    read = pool.map(functools.partial(read_or_skip, log_mels), indices)
    found = [recording for recording in read if recording]
    lengths = [len(recording['frames']) for recording in found]
    list(pool.map(run, length_batches(lengths, budget)))
  return found


def run_encoder(
  encoder: Encoder, mels: Sequence[np.ndarray], rows: int
) -> list[np.ndarray]:
  """The frames of each log-mel spectrogram, no padding; computed as `rows` rows."""
  length = round_up(max(map(len, mels)), LENGTH_STEP)
  length = min(length, encoder.config.max_frames)
  hidden, valid = _forward(encoder, *pad_frames(mels, rows, length))
  counts = np.asarray(valid).sum(axis=1)[: len(mels)]
  return [row[:count] for row, count in zip(np.asarray(hidden), counts, strict=False)]


_forward = jax.jit(lambda encoder, log_mel, valid: encoder(jnp.asarray(log_mel), valid))


def length_batches(
  lengths: Sequence[int] | np.ndarray, budget: int
) -> Iterator[tuple[int, list[int]]]:
  """Recordings of like length together: how many rows `budget` frames hold; which."""
  buckets: dict[int, list[int]] = {}
  for i in np.argsort(lengths, kind='stable').tolist():
    buckets.setdefault(round_up(int(lengths[i]), LENGTH_STEP), []).append(i)
  for length, members in buckets.items():
    rows = max(1, budget // length)
    yield from ((rows, members[i : i + rows]) for i in range(0, len(members), rows))


def _check_or_write_info(path: Path, info: dict[str, Any]) -> None:
  if not path.exists():
    return (
      write_atomically(path, json.dumps(info, indent=1))
      if jax.process_index() == 0
      else None
    )
  before = json.loads(path.read_text())
  for key, value in info.items():
    if before.get(key) != value:
      raise ValueError(
        f'{path.parent} was made with {key} {before.get(key)!r}, not {value!r}'
      )
