# SPDX-License-Identifier: Apache-2.0
"""Which text belongs to which stretch of audio, so that both are cut together."""

import dataclasses

# Of a sentence that is cut off while its sound is sent: about 15 characters a second.
MS_PER_CHARACTER = 65.0


@dataclasses.dataclass
class Sentence:
  """A sentence and where its sound ends, in milliseconds of the audio sent."""

  text: str
  start_ms: float
  end_ms: float
  is_complete: bool = False

  @property
  def duration(self) -> float:
    """Milliseconds of the whole sentence, estimated if a part was sent."""
    sent = self.end_ms - self.start_ms
    if self.is_complete:
      return sent
    return max(sent, MS_PER_CHARACTER * len(self.text))


class Spoken:
  """The sentences whose audio was sent.

  rate: samples a second.
  """

  def __init__(self, rate: int):
    self._rate, self._num_bytes = rate, 0
    self.sentences: list[Sentence] = []

  @property
  def milliseconds(self) -> float:
    """Length of the audio sent."""
    return 1_000 * self._num_bytes / 2 / self._rate

  def begin(self, text: str) -> None:
    """Note that the sound of a sentence follows."""
    self.sentences.append(Sentence(text, self.milliseconds, self.milliseconds))

  def add(self, pcm: bytes) -> None:
    """Note that 16-bit samples of the sentence are sent."""
    self._num_bytes += len(pcm)
    self.sentences[-1].end_ms = self.milliseconds

  def finish(self) -> None:
    """Note that all of the sentence was sent."""
    self.sentences[-1].is_complete = True

  def text_until(self, milliseconds: float | int) -> str:
    """Return the text that was heard by then; a sentence is cut between its words."""
    kept = []
    for sentence in self.sentences:
      heard = min(milliseconds, sentence.end_ms) - sentence.start_ms
      if heard >= sentence.duration:
        kept.append(sentence.text)
      elif heard > 0:
        kept.append(cut(sentence.text, heard / sentence.duration))
    return ' '.join(filter(None, kept))


def cut(text: str, fraction: float) -> str:
  """Return the words that lie within this fraction of a text's characters."""
  end = int(fraction * len(text))
  if end < len(text) and not text[end].isspace():
    end = max(text.rfind(' ', 0, end), 0)
  return text[:end].rstrip()
