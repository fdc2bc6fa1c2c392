# SPDX-License-Identifier: Apache-2.0
"""Where turns begin and end, by the voice activity of each 32 ms."""

import math

from acl_jax.serving.realtime.schema import ServerVAD
from data_pipeline.voice_activity import FRAME_MS, Frame, SpeechModel

START_FRAMES = 3  # of speech in a row begin a turn; a click does not
HYSTERESIS = 0.15  # below the threshold, by which a turn that has begun ends


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
