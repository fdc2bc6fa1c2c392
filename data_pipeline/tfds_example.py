# SPDX-License-Identifier: Apache-2.0
"""TFDS records in ArrayRecord shards, decoded without TensorFlow.

Each record is a `tf.train.Example`: lists of bytes, floats or integers by name.
"""

import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from jaxtyping import Float32, Int16

from data_pipeline import audio

ENCODINGS = ('none', 'bytes', 'zlib')  # of a tfds.features.Tensor


class Shard:
  """The examples of one shard by number, each a mapping of names to features."""

  def __init__(self, path: pathlib.Path):
    if not path.is_file():
      raise FileNotFoundError(f'{path}: is missing')
    options = 'readahead_buffer_size:0'
    self._reader = array_record_module.ArrayRecordReader(str(path), options=options)
    if not self._reader.ok():  # it does not raise
      raise ValueError(f'{path}: is not an ArrayRecord file, or truncated')

  def __len__(self) -> int:
    return self._reader.num_records()

  def __getitem__(self, number: int) -> Mapping[str, Any]:
    """Return an example; ValueError if the record cannot be read or parsed."""
    from tensorflow_datasets.proto import tf_example_pb2  # slow to import

    try:
      (record,) = self._reader.read([number])
    except (RuntimeError, IndexError) as error:
      raise ValueError(str(error).split(' (')[0]) from None
    try:
      return tf_example_pb2.Example.FromString(record).features.feature
    except Exception:  # protobuf's DecodeError; protobuf is not our dependency
      raise ValueError('is not a tf.train.Example') from None


def read_string(features: Mapping[str, Any], name: str) -> str:
  """Return a scalar string or integer feature as a string; '' if it is missing."""
  values = _feature_values(features, name)
  if len(values) > 1:
    raise ValueError(f'{name} has {len(values)} values instead of one')
  if not values or isinstance(values[0], int):
    return str(*values)
  try:
    return values[0].decode()
  except UnicodeDecodeError:
    raise ValueError(f'{name} is not UTF-8') from None
  except AttributeError:
    raise ValueError(f'{name} is {values[0]!r}, not a string') from None


def _feature_values(features: Mapping[str, Any], name: str) -> Sequence[Any]:
  """Return the values of a feature; indexing the map would create a missing one."""
  if name not in features:
    return ()
  kind = features[name].WhichOneof('kind')
  return getattr(features[name], kind).value if kind else ()


def read_audio(
  path: pathlib.Path, number: int, rate: int, encoding: str, *, limits: audio.Limits
) -> Float32[np.ndarray, 'samples']:
  """Return the feature `audio` of one example at 16 kHz; AudioError if it is unusable.

  Args:
    path: the shard.
    number: index of the example in the shard.
    rate: samples per second.
    encoding: of the samples, one of ENCODINGS.
    limits: on the size and content of the audio.
  """
  name = f'{path} record {number}'
  try:
    features = Shard(path)[number]
  except (OSError, ValueError) as error:
    raise audio.AudioError(name, 'content', f'cannot be read ({error})') from None
  samples = _decode_samples(_feature_values(features, 'audio'), encoding, name, limits)
  return audio.from_pcm(samples, rate, name, limits)


def _decode_samples(
  values: Sequence[Any], encoding: str, name: str, limits: audio.Limits
) -> Int16[np.ndarray, 'n']:
  if encoding == 'none':
    try:
      return np.array(values, np.int16)
    except (ValueError, OverflowError, TypeError):
      raise audio.AudioError(name, 'samples', 'are not 16-bit integers') from None
  data = values[0] if len(values) == 1 else b''
  if not isinstance(data, bytes):
    raise audio.AudioError(name, 'samples', f'are not stored as {encoding}')
  if encoding == 'zlib':
    data = _inflate(data, name, limits.decoded_bytes)
  if len(data) % 2:
    raise audio.AudioError(name, 'samples', f'are {len(data)} bytes, an odd number')
  return np.frombuffer(data, '<i2').astype(np.int16, copy=False)


def _inflate(data: bytes, name: str, limit: int) -> bytes:
  inflater = zlib.decompressobj()
  try:
    inflated = inflater.decompress(data, limit + 1)
  except zlib.error as error:
    problem = f'cannot be decompressed ({error})'
    raise audio.AudioError(name, 'content', problem) from None
  if len(inflated) > limit:
    problem = f'is over the limit of {limit} bytes'
    raise audio.AudioError(name, 'decoded size', problem)
  if not inflater.eof:
    raise audio.AudioError(name, 'content', 'is truncated')
  return inflated
