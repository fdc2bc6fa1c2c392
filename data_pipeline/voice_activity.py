# SPDX-License-Identifier: Apache-2.0
"""Voice activity: how likely each 32 ms of audio are speech, and whether any are.

Silero's model is read from a package that contains it, without importing the package.
Where there is none, speech is what stands out from the noise.
"""

import collections
import functools
import importlib.metadata
import math
import pathlib
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Float32

RATE = 16_000
FRAME = 512  # samples, 32 ms
FRAME_MS = 1_000 * FRAME // RATE
THRESHOLD = 0.35  # probability from which a frame counts as speech
SPEECH_FRAMES = 4  # in a row that make speech, 128 ms; the shortest words have more
MARGIN, LOWEST_LEVEL = 6.0, -75.0  # dB; of a whole recording without a model
NOT_HEARD = 'I did not hear anything.'

# Packages that contain the model, with the same inputs and outputs.
SILERO_FILES = (
  ('silero-vad', 'silero_vad/data/silero_vad_16k_sequence.onnx'),
  ('faster-whisper', 'faster_whisper/assets/silero_vad_v6.onnx'),
)

Frame = Float32[np.ndarray, '512']


@runtime_checkable
class SpeechModel(Protocol):
  """Tells speech from noise, frame by frame; it has a memory of the frames before."""

  def __call__(self, frame: Frame) -> float:
    """Return the probability that a frame is speech."""
    ...


class EnergyModel:
  """Speech is 12 dB louder than the quietest frame of the last two seconds."""

  WINDOW = 2_000 // FRAME_MS
  INITIAL_FLOOR = -50.0  # dB of full scale, until the window is full
  LOWEST_FLOOR = -60.0
  MARGIN, WIDTH = 12.0, 2.0  # dB; at the margin, the probability is 0.5

  def __init__(self):
    self._levels = collections.deque([self.INITIAL_FLOOR], maxlen=self.WINDOW)

  def __call__(self, frame: Frame) -> float:
    power = float(np.mean(np.square(frame, dtype=np.float64)))
    level = 10 * math.log10(power + 1e-12)
    self._levels.append(level)
    floor = max(min(self._levels), self.LOWEST_FLOOR)
    return 1 / (1 + math.exp((self.MARGIN - (level - floor)) / self.WIDTH))


class SileroModel:
  """Silero's recurrent model; a frame is read after 64 samples of the one before."""

  CONTEXT, STATE = 64, 128

  def __init__(self, session: Any):
    self._session = session
    self._context = np.zeros(self.CONTEXT, np.float32)
    self._h = self._c = np.zeros((1, 1, self.STATE), np.float32)

  def __call__(self, frame: Frame) -> float:
    # Frame by frame, so that results do not depend on how the audio arrived.
    window = np.concatenate([self._context, frame])
    inputs = {'input': window[None], 'h': self._h, 'c': self._c}
    probability, self._h, self._c = self._session.run(None, inputs)
    self._context = frame[-self.CONTEXT :]
    return float(probability.reshape(-1)[0])


def find_silero() -> pathlib.Path | None:
  """Return where Silero's model is, or None if no package has it."""
  for package, name in SILERO_FILES:
    try:
      path = importlib.metadata.distribution(package).locate_file(name)
    except importlib.metadata.PackageNotFoundError:
      continue
    if (found := pathlib.Path(str(path))).is_file():
      return found
  return None


class SpeechModels:
  """Makes a model for each session; the weights of Silero's are loaded once."""

  def __init__(self, path: pathlib.Path | None):
    self._session = open_silero(path) if path else None

  def __call__(self) -> SpeechModel:
    return SileroModel(self._session) if self._session else EnergyModel()


def open_silero(path: pathlib.Path) -> Any:
  """Load the model, on one thread; None where onnxruntime is not installed."""
  try:
    import onnxruntime
  except ImportError:
    return None
  options = onnxruntime.SessionOptions()
  options.inter_op_num_threads = options.intra_op_num_threads = 1
  options.log_severity_level = 3  # warns about unused weights
  return onnxruntime.InferenceSession(
    str(path), options, providers=['CPUExecutionProvider']
  )


class VoiceActivity:
  """Whether a recording that arrives in pieces has speech.

  model: tells speech from noise; None decides by the energy of the frames. The result
  depends on the samples alone, not on how they arrive.
  """

  def __init__(self, model: SpeechModel | None = None):
    self._model = model
    self._rest = np.zeros(0, np.float32)
    self._levels: list[np.ndarray] = []  # of the frames, where there is no model
    self._run = 0  # frames of speech until now

  def append(self, samples: Float[np.ndarray, ' samples']) -> None:
    """Take samples in -1..1 at 16 kHz."""
    samples = np.concatenate([self._rest, np.asarray(samples, np.float32)])
    count = len(samples) // FRAME
    self._rest = samples[count * FRAME :]
    frames = samples[: count * FRAME].reshape(count, FRAME)
    if self._model is None:
      self._levels.append(_levels(frames))
      return
    for frame in frames:
      if self._run >= SPEECH_FRAMES:
        return
      self._run = self._run + 1 if self._model(frame) >= THRESHOLD else 0

  def finish(self) -> bool:
    """Return whether there was speech."""
    if self._model is not None:
      return self._run >= SPEECH_FRAMES
    stands_out = _stand_out(np.concatenate([np.zeros(0), *self._levels]))
    return SPEECH_FRAMES * b'\1' in stands_out.tobytes()


def listen() -> VoiceActivity:
  """Start to look for speech, by Silero where it is installed."""
  session = _shared_silero()
  return VoiceActivity(SileroModel(session) if session else None)


def has_speech(samples: Float[np.ndarray, ' samples'], by_energy: bool = False) -> bool:
  """Return whether a recording in -1..1 at 16 kHz has speech.

  by_energy: whatever is installed, which is fast and the same everywhere.
  """
  activity = VoiceActivity() if by_energy else listen()
  activity.append(samples)
  return activity.finish()


def _levels(frames: Float32[np.ndarray, 'n 512']) -> Float[np.ndarray, ' n']:
  """Return the power of frames in dB of full scale."""
  power = np.einsum('nf,nf->n', frames, frames, dtype=np.float64) / FRAME
  return 10 * np.log10(power + 1e-12)


def _stand_out(levels: Float[np.ndarray, ' n']) -> Bool[np.ndarray, ' n']:
  """Return which frames are louder than the quietest within two seconds of them."""
  if not len(levels):
    return np.zeros(0, bool)
  size = 2 * EnergyModel.WINDOW + 1
  floor = scipy.ndimage.minimum_filter1d(levels, size, mode='nearest')
  return levels - np.maximum(floor, LOWEST_LEVEL) >= MARGIN


@functools.cache
def _shared_silero() -> Any:
  """Return Silero's session, loaded once; None where it is not installed."""
  path = find_silero()
  return open_silero(path) if path else None
