# SPDX-License-Identifier: Apache-2.0
"""Records on disk: containers in ArrayRecord shards, and prepared folders of speech.

A prepared folder holds `data-00000-of-0000N.array_record`, `index.jsonl` (one line per
record, in order: id, seconds, text) and `dataset.json` (counts, checksums, skipped
utterances). The audio of a record is a FLAC file (array `flac`) or samples (array
`audio`, int16).
"""

import contextlib
import io
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
from data_pipeline.object_store import RemotePath, StoreError, as_path
from data_pipeline.shards import Shards
from data_pipeline.shards import shard_name as shard_name

SCHEMA_VERSION = 1
MAX_SECONDS = 3_600.0  # of an utterance
ENCODINGS = ('flac', 'int16')  # of the audio in a record
UTTERANCE_FIELDS = ('id', 'text', 'speaker', 'lang', 'response')

_SECONDS_TOLERANCE = 0.001  # lengths are float32


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


class Dataset(Sequence[dict[str, Any]]):
  """A prepared folder: utterances by index; `ids`, `seconds` and `texts` of `lines`.

  folder: a path, or a URL such as `gs://bucket/prepared`.
  """

  def __init__(self, folder: str | pathlib.Path | RemotePath):
    folder = as_path(folder)
    self.info = read_info(folder / 'dataset.json')
    self.lines = open_prepared(folder)
    self.ids, self.texts = self.lines.ids, self.lines.texts
    self.seconds = self.lines.lengths
    self._shards = Shards(folder, counts=shard_counts(self.info))
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


def shard_counts(info: Mapping[str, Any]) -> dict[str, int]:
  """Return the number of records of each shard in `dataset.json`, by file name."""
  try:
    return {str(e['file']): int(e['examples']) for e in info['shards']}
  except (KeyError, TypeError, ValueError):
    return {}  # the shards themselves have it, too


def read_info(path: pathlib.Path | RemotePath) -> dict[str, Any]:
  """Read `dataset.json`; RecordError if it is damaged or of another schema version."""
  try:
    info = json.loads(path.read_text())
    version, info['examples'] = info['schema_version'], int(info['examples'])
  except FileNotFoundError:
    raise FileNotFoundError(f'{path}: not found; is this a prepared folder?') from None
  except StoreError:
    raise
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None
  if version != SCHEMA_VERSION:
    raise RecordError(
      f'{path}: schema_version is {version!r}; this program reads {SCHEMA_VERSION}'
    )
  return info
