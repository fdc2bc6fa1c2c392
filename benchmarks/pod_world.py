# SPDX-License-Identifier: Apache-2.0
"""The indices of a corpus that does not exist, and the start of a host over them.

Only what a host reads before its first batch is written: the indices of the utterances,
of their tokens and of their responses. There is no audio, no text and no response.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import tokenizers

from acl_jax.batches.ctc import CTCBatchAssembler, CTCLabels
from acl_jax.batches.log_mels import LogMelCorpus
from acl_jax.batches.orders import make_order
from acl_jax.batches.responses import ResponseBatchAssembler
from acl_jax.batches.tokens import CorpusTokens
from acl_jax.config.sections import AugmentationConfig, CorpusConfig
from acl_jax.models.conformer import ConformerConfig
from acl_jax.targets.store import Targets
from acl_jax.text import templates
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.tokenizer import Backends, TextEncoder, Tokenizer, TokenizersBackend
from data_pipeline.augment import Augmentation
from data_pipeline.columns import open_columns, write_columns
from data_pipeline.line_index import index_path, make_key, open_prepared
from data_pipeline.mixture import Corpora

LINE_BYTES = 240  # of an utterance in index.jsonl
TOKENS_PER_SECOND = 3.2
ROW_TOKENS = 2  # of the LLM in a row, per encoder frame; frames are the limit
ENCODER = ConformerConfig(  # only its frame rate and its limit matter here
  hidden_size=16,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=24,
  conv_kernel_size=3,
  subsampling_conv_channels=8,
)
FINGERPRINT = 'synthetic'


def draw_seconds(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
  """Return lengths like those of LibriSpeech, or of Multilingual LibriSpeech."""
  if kind == 'mls':  # its segments have 10 to 20 s
    return rng.normal(14.9, 2.6, count).clip(10, 20).astype(np.float32)
  long = rng.random(count) < 0.65
  short = rng.gamma(2.2, 3.4, count)
  seconds = np.where(long, rng.normal(14.5, 1.2, count), short)
  return seconds.clip(1.3, 35).astype(np.float32)


def write_world(folder: Path, records: int, kind: str) -> None:
  """Write the indices of `records` utterances."""
  rng = np.random.default_rng(0)
  folder.mkdir(exist_ok=True)
  (folder / 'index.jsonl').touch()
  (folder / 'dataset.json').write_text('{}')
  seconds, hashes = draw_seconds(kind, records, rng), rng.bytes(8 * records)
  id_hash = np.frombuffer(hashes, np.uint64)
  columns = {
    'start': np.arange(records + 1, dtype=np.uint64) * np.uint64(LINE_BYTES),
    'id_hash': id_hash,
    'seconds': seconds,
  }
  facts = {'sha256': f'{records}', 'ids_sha256': ''}
  _write(index_path(folder / 'index.jsonl'), columns, make_key(0, b'{}'), facts)
  tokens = (seconds * TOKENS_PER_SECOND).astype(np.int32)
  columns = {
    'start': np.zeros(records + 1, np.uint64),
    'tokens': np.zeros(1, np.int32),
    'need': tokens,
    'letters': 4 * tokens,
    'refused': np.zeros(records, np.uint8),
    'counts': np.zeros(1, np.int64),
  }
  key = {'version': 1, 'lines': f'{records}', 'tokenizer': FINGERPRINT}
  name = f'tokens-{FINGERPRINT[:16]}-{records}.columns'
  _write(folder / name, columns, key, {})
  row = np.argsort(id_hash).astype(np.int32)
  columns = {
    'id_hash': id_hash[row],
    'row': row,
    'tokens': rng.integers(12, 60, records).astype(np.int32),
    'flag': np.zeros(records, np.uint8),
    'instruction': np.zeros(records, np.uint16),
  }
  facts = {'flags': [''], 'skipped': 0, 'collisions': []}
  _write(folder / 'responses.columns', columns, {}, facts)


def _write(path: Path, columns: dict, key: dict, facts: dict) -> None:
  write_columns(path, {name: [a] for name, a in columns.items()}, key, facts)


class IndexedTargets(Targets):
  """Responses of which there is only the index."""

  def __init__(self, folder: Path):
    self.folder, self.max_new_tokens = folder, 60
    self._index = open_columns(folder / 'responses.columns')
    self.tokens, self.instruction = self._index['tokens'], self._index['instruction']
    self._excluded = np.zeros(len(self.tokens), bool)
    self.provenance = {'decoding': {'top_k': 0, 'instructions': [['{}', 1.0]]}}


class Numbered(Sequence):
  """Names of utterances."""

  def __init__(self, size: int):
    self._size = size

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: Any) -> str:
    return f'u{index}'


class IndexedCorpora(Corpora):
  """A prepared folder of which there is only the index."""

  def __init__(self, folder: Path):
    lines = open_prepared(folder)
    self._datasets: Any = [SimpleNamespace(lines=lines)]
    self._starts = [0, len(lines)]
    self.ids: Any = Numbered(len(lines))
    self.texts, self.seconds = self.ids, lines.lengths

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    return {}


def byte_frontend() -> TextFrontend:
  """Return a chat template over single bytes."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {token: number for number, token in enumerate(alphabet)}
  library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
  library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  controls = {'<|im_start|>': 256, '<|im_end|>': 257}
  backends = Backends(*[TokenizersBackend(library)] * 3)
  tokenizer = Tokenizer(backends, controls, 258, None, 257, (257,))
  return TextFrontend(tokenizer, templates.chatml)


class Host(NamedTuple):
  """What a host knows before its first batch.

  stages: wall and CPU seconds of each part of the start.
  """

  order: Any
  lengths: np.ndarray  # frames and tokens of every utterance
  seconds: np.ndarray  # of audio
  stages: dict[str, list[float]]


def start_host(folder: Path, rows: int, row_frames: int) -> Host:
  """Do what `train` does between its models and its first batch."""
  stages: dict[str, list[float]] = {}
  row_tokens = ROW_TOKENS * row_frames

  def timed(name: str, make: Callable[[], Any]) -> Any:
    start, cpu = time.perf_counter(), time.process_time()
    made = make()
    seconds = time.perf_counter() - start, time.process_time() - cpu
    stages[name] = [round(value, 2) for value in seconds]
    return made

  def open_tokens() -> CorpusTokens:
    encoder = TextEncoder(lambda text: [], FINGERPRINT)
    return CorpusTokens.open(source, encoder, folder)

  def plan() -> Any:
    data = CorpusConfig(((str(folder), 1.0),), 1, row_frames, ())
    corpus = corpora.corpus_indices(source.id_hashes)
    budget = rows * row_frames
    order: Any = make_order(data, budget, 0, lengths, corpus, row_tokens)
    order[order.steps_per_epoch]  # the shuffle of another epoch
    return order

  corpora = timed('index', lambda: IndexedCorpora(folder))
  augmentation = AugmentationConfig(Augmentation(0.1, 0.0, (5.0, 30.0), 0.0))
  source = timed('lengths', lambda: LogMelCorpus(corpora, ENCODER, augmentation))
  tokens = timed('tokens', open_tokens)
  ctc = CTCBatchAssembler(source, CTCLabels([]), tokens, 1, 1, False)
  targets = timed('targets', lambda: IndexedTargets(folder))
  frontend = byte_frontend()
  responses = timed(
    'join', lambda: ResponseBatchAssembler(ctc, frontend, targets, 0, row_tokens)
  )
  lengths = timed('row lengths', responses.lengths)
  order = timed('plan', plan)
  return Host(order, lengths, corpora.seconds, stages)


def peak_gigabytes() -> float:
  """Return the largest memory of this process so far."""
  lines = Path('/proc/self/status').read_text().splitlines()
  (peak,) = [line for line in lines if line.startswith('VmHWM')]
  return int(peak.split()[1]) / 1e6
