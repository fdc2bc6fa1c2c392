# SPDX-License-Identifier: Apache-2.0
"""What a device or a line does to audio: clipping, telephone band, lossy codecs.

None changes the length or the timing.
"""

import io

import numpy as np
import scipy.fft
import soundfile
from jaxtyping import Float

from data_pipeline.audio import SAMPLE_RATE

TELEPHONE_BAND = 300.0, 3_400.0  # Hz
MU = 255  # of mu-law, ITU-T G.711
CLIPPED = 0.001, 0.05  # share of the samples, minimum and maximum

# Format, subtype and libsndfile's compression levels: about 24 to 6 kbit/s for Opus,
# 24 to 16 for MP3.
CODECS = {
  'opus': ('OGG', 'OPUS', (0.93, 1.0)),
  'mp3': ('MP3', 'MPEG_LAYER_III', (0.9, 0.95)),
}


def clip(
  audio: Float[np.ndarray, ' samples'], rng: np.random.Generator
) -> Float[np.ndarray, ' samples']:
  """Limit the loudest samples, a random share of `CLIPPED`, to the next loudest."""
  loudness = np.abs(audio)
  kept = int(len(audio) * (1 - rng.uniform(*CLIPPED)))
  limit = np.partition(loudness, kept)[kept]
  return np.clip(audio, -limit, limit)


def telephone_line(
  audio: Float[np.ndarray, ' samples'], mu_law: bool
) -> Float[np.ndarray, ' samples']:
  """Keep 300 to 3400 Hz; with `mu_law` also round to its 8 bits.

  A line has 8,000 samples per second: even noise of the rounding stays below 4 kHz.
  """
  size = 2 * scipy.fft.next_fast_len(len(audio) // 2 + SAMPLE_RATE // 20, real=True)
  spectrum = scipy.fft.rfft(audio, size)
  low, high = (round(hertz * size / SAMPLE_RATE) for hertz in TELEPHONE_BAND)
  spectrum[:low] = spectrum[high + 1 :] = 0
  if mu_law:
    narrow = scipy.fft.irfft(spectrum[: size // 4 + 1], size // 2) / 2
    spectrum = 2 * scipy.fft.rfft(_round_mu_law(narrow))
  return scipy.fft.irfft(spectrum, size)[: len(audio)].astype(np.float32, copy=False)


def _round_mu_law(
  audio: Float[np.ndarray, ' samples'],
) -> Float[np.ndarray, ' samples']:
  """Round to the 8 bits of mu-law."""
  scale = np.float32(np.log1p(MU))
  compressed = np.log1p(MU * np.minimum(np.abs(audio), 1)) / scale
  rounded = np.expm1(np.round(compressed * 127) / 127 * scale) / MU
  return np.copysign(rounded, audio).astype(np.float32, copy=False)


def check_codecs(names: tuple[str, ...]) -> None:
  """Raise ValueError if a codec is unknown, or if this libsndfile cannot write it."""
  for name in names:
    if name not in CODECS:
      known = ', '.join(CODECS)
      raise ValueError(f'codecs has {name!r}; known: {known}')
    container, subtype, _ = CODECS[name]
    formats = soundfile.available_formats()
    if container in formats and subtype in soundfile.available_subtypes(container):
      continue
    raise ValueError(
      f'codecs has {name!r}, which libsndfile {soundfile.__libsndfile_version__} of'
      ' this machine cannot write; install a newer soundfile, or leave it out'
    )


def apply_codec(
  audio: Float[np.ndarray, ' samples'], name: str, rng: np.random.Generator
) -> Float[np.ndarray, ' samples']:
  """Encode at a random low rate and decode, in memory."""
  return decode(encode(audio, name, rng.uniform(*CODECS[name][2])), len(audio))


def encode(audio: Float[np.ndarray, ' samples'], name: str, level: float) -> bytes:
  """Return a file in a codec of `CODECS`; level: libsndfile's compression level."""
  container, subtype, _ = CODECS[name]
  file = io.BytesIO()
  soundfile.write(
    file,
    np.clip(audio, -1, 1),
    SAMPLE_RATE,
    subtype,
    format=container,
    compression_level=level,
    # A constant rate this low has no space for the length that decoders trim to.
    bitrate_mode='AVERAGE' if name == 'mp3' else None,
  )
  return file.getvalue()


def decode(encoded: bytes, length: int) -> Float[np.ndarray, ' length']:
  """Return the audio of a file that `encode` wrote from `length` samples."""
  decoded, _ = soundfile.read(io.BytesIO(encoded), dtype='float32')
  return np.pad(decoded, (0, max(0, length - len(decoded))))[:length]
