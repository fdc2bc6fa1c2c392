# SPDX-License-Identifier: Apache-2.0
"""Audio that FFmpeg decodes, in this process: PyAV brings its libraries.

A file may choose neither what reads it nor where it is: demuxers and decoders are on
the lists below, and no protocol is allowed. Packets are decoded one by one, so that
limits end a file that decodes to more than they allow, whatever its header states.
"""

import io
import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_pipeline.audio_limits import AudioError, Limits, Mixer
from data_pipeline.libsndfile import PREROLL, HandOver, Part

DECODE_SECONDS = 60.0  # of work on a file, after which it is refused
DEMUXERS = (
  *('aac', 'aiff', 'amr', 'amrnb', 'amrwb', 'au', 'caf', 'flac', 'matroska', 'webm'),
  *('mov', 'mp4', 'm4a', '3gp', 'mp3', 'nistsphere', 'ogg', 'w64', 'wav'),
)
DECODERS = (
  *('aac', 'adpcm_ima_wav', 'adpcm_ms', 'alac', 'amrnb', 'amrwb', 'flac', 'gsm_ms'),
  *('libopencore_amrnb', 'libopencore_amrwb', 'libopus', 'mp3', 'mp3float', 'opus'),
  *('pcm_alaw', 'pcm_f32be', 'pcm_f32le', 'pcm_f64be', 'pcm_f64le', 'pcm_mulaw'),
  *('pcm_s16be', 'pcm_s16le', 'pcm_s24be', 'pcm_s24le', 'pcm_s32be', 'pcm_s32le'),
  *('pcm_s8', 'pcm_u8', 'shorten', 'vorbis'),
)
OPTIONS = {
  'format_whitelist': ','.join(DEMUXERS),
  'codec_whitelist': ','.join(DECODERS),
  'protocol_whitelist': '',
  'max_streams': '16',
}
MAX_PACKETS = 100_000  # ten minutes of Opus have 30,000, as AAC and AMR do
MAX_BAD_PACKETS = 3  # where a stream was cut, or has something else between its frames
MISSING_SECONDS = 0.5  # by which a container may exceed its sound
# Containers that state the length of their sound; of others it is an estimate.
STATING = (
  'aiff',
  'au',
  'flac',
  'matroska,webm',
  'mov',
  'nistsphere',
  'ogg',
  'w64',
  'wav',
)
METADATA_ERRORS: dict[str, Any] = {'metadata_errors': 'replace'}
SCALES = {'u8': 2.0**7, 's16': 2.0**15, 's32': 2.0**31, 'flt': 1.0, 'dbl': 1.0}


def decode(
  file: io.BufferedIOBase,
  name: str,
  limits: Limits,
  part: Part | None,
  reason: HandOver,
) -> tuple[Float32[np.ndarray, 'samples'], int]:
  """Return the samples, mixed to mono, and their rate; AudioError.

  reason: why libsndfile does not decode the file.
  """
  advice = 'convert it: ffmpeg -i FILE -ar 16000 -ac 1 converted.wav'
  try:
    import av
    from av.error import FFmpegError
  except ImportError:
    problem = f'needs PyAV, because {reason}: pip install av; or {advice}'
    raise AudioError(name, 'content', problem) from None
  source = _Source(file, name)
  options = OPTIONS | ({'ignore_length': '1'} if reason.ignore_length else {})
  # Titles and the like may be in any encoding; PyAV 19 opens such files as they are.
  lenient = {} if int(av.__version__.split('.')[0]) >= 19 else METADATA_ERRORS
  try:
    for seeks in (True, False):
      source.seek(0)
      with av.open(source, options=options, **lenient) as container:
        mixer = _decode(container, source, limits, part, seeks)
      if mixer is not None:
        return mixer.join(), mixer.rate
  except AudioError:
    raise
  except (FFmpegError, ArithmeticError, LookupError, ValueError) as error:
    fault = getattr(error, 'strerror', error)
    problem = f'is damaged or in an unknown format ({fault}); {advice}'
    raise AudioError(name, 'content', problem) from None
  raise AssertionError('without seeking, there is a result')


class _Source:
  """The file as FFmpeg reads it; AudioError once the time for it is over."""

  def __init__(self, file: io.BufferedIOBase, name: str):
    self._file, self.name = file, name
    self._end = time.monotonic() + DECODE_SECONDS

  def check_time(self) -> None:
    if time.monotonic() > self._end:
      problem = f'took longer than {DECODE_SECONDS:g} s to decode'
      raise AudioError(self.name, 'content', problem)

  def read(self, size: int) -> bytes:
    self.check_time()
    return self._file.read(size)

  def seek(self, offset: int, whence: int = 0) -> int:
    self.check_time()
    return self._file.seek(offset, whence)

  def tell(self) -> int:
    return self._file.tell()


def _decode(
  container: Any, source: _Source, limits: Limits, part: Part | None, seeks: bool
) -> Mixer | None:
  """Decode everything or a part; None if seeking went past the start of the part."""
  name, stream = source.name, _choose_stream(container, source.name)
  total = _estimate_seconds(container, stream)
  start = length = 0.0
  if part:
    start, length = part.start_in(min(total or np.inf, limits.seconds)), part.seconds
    seeks = seeks and _seek(container, stream, start - PREROLL)
    if not seeks and start + length > limits.seconds + PREROLL:
      raise AudioError(name, 'duration', f'is over the limit of {limits.seconds:g} s')
  frames = _frames(container, stream, source)
  if (first := next(frames, None)) is None:
    return Mixer(name, limits, limits.min_rate, 1)
  rate, channels = first.sample_rate, first.layout.nb_channels
  limits.check_rate(rate, name)
  limits.check_channels(channels, name)
  skip = round(start * rate)
  if part and seeks:
    skip -= _position(first, stream)
  if skip < 0:
    return None
  count = round(length * rate) if part else sys.maxsize
  mixer = Mixer(name, limits, rate, channels, skip, count)
  for frame in itertools.chain([first], frames):
    if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
      raise AudioError(name, 'content', 'changes its sample rate or its channels')
    mixer.append(_to_array(frame))
    if not mixer.missing:
      break
  if part is None and total and _states_length(container, stream):
    _check_complete(mixer, total, name)
  return mixer


def _choose_stream(container: Any, name: str) -> Any:
  """Return the first stream of sound; AudioError if there is none."""
  if not container.streams.audio:
    raise AudioError(name, 'content', 'has no sound')
  stream = container.streams.audio[0]
  codec = stream.codec_context.name if stream.codec_context else 'unknown'
  if codec not in DECODERS:
    raise AudioError(name, 'codec', f'is {codec}, which is not supported')
  return stream


def _seek(container: Any, stream: Any, seconds: float) -> bool:
  """Seek to a time or before it, and return whether that worked."""
  from av.error import FFmpegError

  format, codec = container.format.name, stream.codec_context.name
  if seconds <= 0 or format == 'ogg' or (format == 'wav' and codec[:3] != 'pcm'):
    return False  # what arrives here of these has no exact times
  try:
    target = int(seconds / stream.time_base) + (stream.start_time or 0)
    container.seek(target, stream=stream)
  except (FFmpegError, OverflowError):
    return False
  return True


def _position(frame: Any, stream: Any) -> int:
  """Return the number of the first sample of a frame; far away if it is unknown."""
  if frame.pts is None:
    return sys.maxsize
  ticks = frame.pts - (stream.start_time or 0)
  return round(ticks * frame.time_base * frame.sample_rate)


def _frames(container: Any, stream: Any, source: _Source) -> Iterator[Any]:
  """Yield decoded frames; a few packets may be bad."""
  from av.error import FFmpegError

  num_bad = 0
  for number, packet in enumerate(container.demux(stream)):
    source.check_time()
    if number > MAX_PACKETS:
      raise AudioError(source.name, 'content', f'has over {MAX_PACKETS} packets')
    try:
      frames = packet.decode()
    except FFmpegError:
      num_bad += 1
      if num_bad > MAX_BAD_PACKETS:
        raise
      continue
    yield from frames


def _to_array(frame: Any) -> Float32[np.ndarray, 'n channels']:
  """Return the samples of a frame in -1..1."""
  values = frame.to_ndarray()
  scale = SCALES[frame.format.name.removesuffix('p')]
  values = np.asarray(values, np.float32) / np.float32(scale)
  if frame.format.name.startswith('u8'):
    values -= 1
  return values.T if frame.format.is_planar else values.reshape(frame.samples, -1)


def _estimate_seconds(container: Any, stream: Any) -> float | None:
  """Return the length by the header, or as FFmpeg estimates it."""
  if stream.duration:
    return float(stream.duration * stream.time_base)
  if container.duration and len(container.streams) == 1:
    return container.duration / 1e6
  return None


def _states_length(container: Any, stream: Any) -> bool:
  """Return whether the length is not an estimate; an MP3 with a start has a header."""
  format = container.format.name
  return format.startswith(STATING) or (format == 'mp3' and bool(stream.start_time))


def _check_complete(mixer: Mixer, total: float, name: str) -> None:
  """Raise AudioError if there is less than the header states."""
  seconds = mixer.frames / mixer.rate
  if seconds < total - MISSING_SECONDS:
    problem = f'is truncated: {seconds:.3f} of {total:.3f} s'
    raise AudioError(name, 'content', problem)
