# SPDX-License-Identifier: Apache-2.0
"""Voice activity: how likely each 32 ms of audio are speech, and where turns end.

Silero's model is read from a package that contains it, without importing the package.
Where there is none, speech is what stands out from the noise.
"""

import collections
import importlib.metadata
import math
import pathlib
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from acl_jax.serving.realtime.schema import ServerVAD

RATE = 16_000
FRAME = 512  # samples, 32 ms
FRAME_MS = 1_000 * FRAME // RATE
START_FRAMES = 3  # of speech in a row begin a turn; a click does not
HYSTERESIS = 0.15  # below the threshold, by which a turn that has begun ends

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


class TurnDetector:
  """Finds where a turn begins and ends; `speaking` is the state after a frame."""

  def __init__(self, settings: ServerVAD, model: SpeechModel):
    self._settings, self._model = settings, model
    self.speaking = False
    self._run = 0  # frames in a row that speak for a change

  def reset(self) -> None:
    """Wait for the next turn to begin."""
    self.speaking, self._run = False, 0

  def step(self, frame: Frame) -> bool:
    """Take a frame; return whether a turn began or ended with it."""
    probability, threshold = self._model(frame), self._settings.threshold
    if self.speaking:
      changes = probability < max(threshold - HYSTERESIS, 0.01)
      needed = math.ceil(self._settings.silence_duration_ms / FRAME_MS)
    else:
      changes, needed = probability >= threshold, START_FRAMES
    self._run = self._run + 1 if changes else 0
    if self._run < needed:
      return False
    self.speaking, self._run = not self.speaking, 0
    return True
