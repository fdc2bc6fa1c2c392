# SPDX-License-Identifier: Apache-2.0
"""Records on disk: containers in ArrayRecord shards, and prepared folders of speech.

A prepared folder holds `data-00000-of-0000N.array_record`, `index.jsonl` (one line per
record, in order: id, seconds, text) and `dataset.json` (counts, checksums, skipped
utterances). The audio of a record is a FLAC file (array `flac`) or samples (array
`audio`, int16).
"""

import bisect
import contextlib
import io
import itertools
import json
import operator
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import soundfile
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from jaxtyping import Float, Float32

from acl_jax.runtime.files import replace_atomically
from data_pipeline import audio
from data_pipeline.audio import SAMPLE_RATE
from data_pipeline.container import RecordError, pack, unpack
from data_pipeline.id_hashes import hash_id
from data_pipeline.line_index import open_prepared

SCHEMA_VERSION = 1
MAX_SECONDS = 3_600.0  # of an utterance
ENCODINGS = ('flac', 'int16')  # of the audio in a record
UTTERANCE_FIELDS = ('id', 'text', 'speaker', 'lang', 'response')

_DIGITS = '[0-9]' * 5
_SECONDS_TOLERANCE = 0.001  # lengths are float32


def shard_name(name: str, index: int, total: int) -> str:
  """Return the file name of one shard of `total`."""
  return f'{name}-{index:05d}-of-{total:05d}.array_record'


@contextlib.contextmanager
def _translate_write_errors(path: pathlib.Path):
  """Raise OSError in place of the writer's RuntimeError, such as for a full disk."""
  try:
    yield
  except RuntimeError as error:
    raise OSError(f'{path}: cannot be written ({error})') from None


def write_shard(path: str | pathlib.Path, records: Iterable[bytes]) -> int:
  """Write one shard atomically; returns the number of records."""
  path = pathlib.Path(path)
  with replace_atomically(path) as temporary:
    return _write_records(temporary, records)


def _write_records(path: pathlib.Path, records: Iterable[bytes]) -> int:
  # A group size of 1 lets any record be read alone. Audio hardly compresses further.
  options, count = 'group_size:1,uncompressed', 0
  with _translate_write_errors(path):
    writer = array_record_module.ArrayRecordWriter(str(path), options)
  for record in records:
    with _translate_write_errors(path):
      writer.write(record)
    count += 1
  with _translate_write_errors(path):
    writer.close()
  return count


class Shards(Sequence[bytes]):
  """Random access to the records of `folder/name-?????-of-?????.array_record`."""

  def __init__(self, folder: str | pathlib.Path, name: str = 'data'):
    folder = pathlib.Path(folder)
    self._paths = sorted(folder.glob(f'{name}-{_DIGITS}-of-{_DIGITS}.array_record'))
    if not self._paths:
      raise FileNotFoundError(f'{folder}: no shards {name}-*-of-*.array_record')
    total = int(self._paths[0].name[-18:-13])
    expected = {folder / shard_name(name, index, total) for index in range(total)}
    for odd in sorted(expected.symmetric_difference(self._paths)):
      state = 'is missing' if odd in expected else f'is not one of the {total} shards'
      raise RecordError(f'{odd}: {state}')
    self._readers = [self._open(path) for path in self._paths]
    counts = (reader.num_records() for reader in self._readers)
    self._starts = list(itertools.accumulate(counts, initial=0))

  @staticmethod
  def _open(path: pathlib.Path) -> array_record_module.ArrayRecordReader:
    options = 'readahead_buffer_size:0'  # useless for random access
    reader = array_record_module.ArrayRecordReader(str(path), options=options)
    if not reader.ok():  # it does not raise
      raise RecordError(f'{path}: is not an ArrayRecord file, or truncated')
    return reader

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, index: SupportsIndex) -> bytes:
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Collection[SupportsIndex]) -> list[bytes]:
    """Read many records at once, which is much faster than one by one."""
    by_shard: dict[int, dict[int, int]] = {}  # shard -> position in result -> row
    for position, index in enumerate(indices):
      shard, row = self._split_index(operator.index(index))
      by_shard.setdefault(shard, {})[position] = row
    records = [b''] * len(indices)
    for shard, rows in by_shard.items():
      contents = self._read(shard, list(rows.values()))
      for position, record in zip(rows, contents, strict=True):
        records[position] = record
    return records

  def _split_index(self, index: int) -> tuple[int, int]:
    """Return the shard of a record and its row there."""
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} is out of range; there are {len(self)}')
    shard = bisect.bisect_right(self._starts, index) - 1
    return shard, index - self._starts[shard]

  def locate(self, index: SupportsIndex) -> str:
    """Return the path and row of a record, for messages."""
    shard, row = self._split_index(operator.index(index))
    return f'{self._paths[shard]}: record {row}'

  def _read(self, shard: int, rows: list[int]) -> list[bytes]:
    try:
      return self._readers[shard].read(rows)
    except (RuntimeError, IndexError) as error:
      if len(rows) > 1:  # read one by one to find the broken record
        return [self._read(shard, [row])[0] for row in rows]
      reason = str(error).split(' (')[0]
      raise RecordError(f'{self._paths[shard]}: record {rows[0]}: {reason}') from None

  def __getstate__(self):
    return self._paths, self._starts

  def __setstate__(self, state):
    # Readers cannot be pickled, so a worker process opens its own.
    self._paths, self._starts = state
    self._readers = [self._open(path) for path in self._paths]


class Dataset(Sequence[dict[str, Any]]):
  """A prepared folder: utterances by index; `ids`, `seconds` and `texts` of `lines`."""

  def __init__(self, folder: str | pathlib.Path):
    folder = pathlib.Path(folder)
    self.info = read_info(folder / 'dataset.json')
    self.lines = open_prepared(folder)
    self.ids, self.texts = self.lines.ids, self.lines.texts
    self.seconds = self.lines.lengths
    self._shards = Shards(folder)
    if not len(self._shards) == len(self.lines) == self.info['examples']:
      raise RecordError(
        f'{folder}: counts differ: {len(self._shards)} records, {len(self)} lines in '
        f'index.jsonl, {self.info["examples"]} examples in dataset.json'
      )

  def __len__(self) -> int:
    return len(self.lines)

  def ids_sha256(self) -> str:
    """Return the SHA-256 of all ids, one a line."""
    return self.lines.columns.facts['ids_sha256']

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    """Return id, text, speaker, lang, response, and audio [samples] float32, 16 kHz."""
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Collection[SupportsIndex]) -> list[dict[str, Any]]:
    records = self._shards.__getitems__(indices)
    pairs = zip(map(operator.index, indices), records, strict=True)
    return [self._decode(index, record) for index, record in pairs]

  def _decode(self, index: int, record: bytes) -> dict[str, Any]:
    try:
      header, arrays = unpack(record)
      if hash_id(str(id := header.get('id'))) != self.lines.id_hashes[index]:
        raise RecordError(f'id is {id!r}, but {self.ids[index]!r} in index.jsonl')
      samples = _unpack_audio(arrays, float(self.seconds[index]))
    except (RecordError, audio.AudioError) as error:
      raise RecordError(f'{self._shards.locate(index)}: {error}') from None
    return {key: header.get(key) for key in UTTERANCE_FIELDS} | {'audio': samples}


def pack_utterance(
  utterance: Mapping[str, Any],
  samples: Float[np.ndarray, 'samples'],
  encoding: str = 'flac',
) -> bytes:
  """Serialize an utterance; samples in [-1, 1] at 16 kHz are stored as 16 bits.

  encoding: of the audio, one of ENCODINGS.
  """
  pcm = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
  header = {k: utterance[k] for k in UTTERANCE_FIELDS if utterance[k] is not None}
  if encoding == 'int16':
    return pack(header, {'audio': pcm})
  file = io.BytesIO()
  soundfile.write(file, pcm, SAMPLE_RATE, 'PCM_16', format='FLAC')
  return pack(header, {'flac': np.frombuffer(file.getbuffer(), np.uint8)})


def _unpack_audio(
  arrays: Mapping[str, np.ndarray], seconds: float
) -> Float32[np.ndarray, 'samples']:
  """Return the samples; RecordError or AudioError if their length is not `seconds`."""
  match arrays:
    case {'flac': flac}:
      # Decoding stops at the length in the index: few bytes may be hours of silence.
      limits = audio.Limits(
        encoded_bytes=flac.nbytes,
        seconds=min(MAX_SECONDS, seconds + _SECONDS_TOLERANCE),
        min_seconds=0.0,
        min_rate=SAMPLE_RATE,
        max_rate=SAMPLE_RATE,
        channels=1,
      )
      samples = audio.read(flac.tobytes(), limits=limits)
    case {'audio': pcm} if pcm.dtype == np.int16 and pcm.ndim == 1:
      samples = pcm.astype(np.float32) / 32768
    case _:
      raise RecordError('has neither an array `flac` nor an int16 array `audio`')
  decoded = len(samples) / SAMPLE_RATE
  if not abs(decoded - seconds) <= _SECONDS_TOLERANCE:
    raise RecordError(f'audio has {decoded:g} s, but {seconds:g} s in index.jsonl')
  return samples


def read_info(path: pathlib.Path) -> dict[str, Any]:
  """Read `dataset.json`; RecordError if it is damaged or of another schema version."""
  try:
    info = json.loads(path.read_text())
    version, info['examples'] = info['schema_version'], int(info['examples'])
  except FileNotFoundError:
    raise FileNotFoundError(f'{path}: not found; is this a prepared folder?') from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None
  if version != SCHEMA_VERSION:
    raise RecordError(
      f'{path}: schema_version is {version!r}; this program reads {SCHEMA_VERSION}'
    )
  return info
