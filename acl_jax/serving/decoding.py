# SPDX-License-Identifier: Apache-2.0
"""Audio of requests to samples; containers that only ffmpeg reads go through it."""

import shutil
import subprocess

import numpy as np
from jaxtyping import Float32

from data_pipeline import audio
from data_pipeline.audio import AudioError

FFMPEG_SECONDS = 60.0  # after which it is killed

Samples = Float32[np.ndarray, ' samples']


def decode(data: bytes, name: str, max_seconds: float) -> Samples:
  """Decode WAV, FLAC, Ogg or MP3; with ffmpeg also WebM and M4A. To 16 kHz mono.

  AudioError if it cannot be decoded, or is longer than `max_seconds`.
  """
  limits = audio.Limits(seconds=max_seconds)
  demuxer = ''
  if data[:4] == b'\x1a\x45\xdf\xa3':
    demuxer = 'matroska'
  elif data[4:8] == b'ftyp':
    demuxer = 'mov'
  if not demuxer:
    return audio.read(data, limits=limits, name=name)
  if len(data) > limits.encoded_bytes:
    raise AudioError(name, 'size', f'is over the limit of {limits.encoded_bytes} bytes')
  pcm = _run_ffmpeg(data, name, demuxer, max_seconds)
  return audio.from_pcm(np.frombuffer(pcm, '<i2'), audio.SAMPLE_RATE, name, limits)


def _run_ffmpeg(data: bytes, name: str, demuxer: str, max_seconds: float) -> bytes:
  """Return 16-bit PCM at 16 kHz, at most a second more than `max_seconds`."""
  ffmpeg = shutil.which('ffmpeg')
  if ffmpeg is None:
    kind = {'matroska': 'WebM', 'mov': 'M4A'}[demuxer]
    raise AudioError(
      name,
      'content',
      f'is {kind}, which this server cannot decode: it has no ffmpeg; send WAV, MP3,'
      ' FLAC or Ogg',
    )
  # The format is given and other protocols are barred, so that no file can make it
  # open another. `cache` lets it seek back to an index at the end.
  command = [ffmpeg, '-nostdin', '-loglevel', 'error', '-threads', '1']
  command += ['-protocol_whitelist', 'cache,pipe', '-f', demuxer, '-i', 'cache:pipe:0']
  command += ['-map', '0:a:0', '-t', f'{max_seconds + 1:g}', '-ac', '1']
  command += ['-ar', str(audio.SAMPLE_RATE), '-f', 's16le', 'pipe:1']
  try:
    done = subprocess.run(
      command, input=data, capture_output=True, timeout=FFMPEG_SECONDS, check=False
    )
  except subprocess.TimeoutExpired:
    problem = f'took ffmpeg longer than {FFMPEG_SECONDS:g} s'
    raise AudioError(name, 'content', problem) from None
  if done.returncode:
    raise AudioError(name, 'content', 'cannot be decoded by ffmpeg')
  return done.stdout[: len(done.stdout) // 2 * 2]
