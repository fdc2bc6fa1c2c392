# SPDX-License-Identifier: Apache-2.0
"""Which text belongs to which stretch of audio, so that both are cut together."""

import dataclasses

# Of a sentence that is cut off while its sound is sent: about 15 characters a second.
MS_PER_CHARACTER = 65.0


@dataclasses.dataclass
class Sentence:
  """A sentence: where it is in the text, and in milliseconds of the audio sent."""

  start: int
  end: int
  start_ms: float
  end_ms: float
  is_complete: bool = False

  @property
  def duration(self) -> float:
    """Milliseconds of the whole sentence, estimated if a part was sent."""
    sent = self.end_ms - self.start_ms
    if self.is_complete:
      return sent
    return max(sent, MS_PER_CHARACTER * (self.end - self.start))


class Spoken:
  """The text that was written to be spoken, and the sentences whose audio was sent.

  rate: samples a second.
  """

  def __init__(self, rate: int):
    self._rate, self._num_bytes = rate, 0
    self.text, self.sentences = '', list[Sentence]()

  @property
  def milliseconds(self) -> float:
    """Length of the audio sent."""
    return 1_000 * self._num_bytes / 2 / self._rate

  def begin(self, sentence: str) -> None:
    """Note that the sound of the next sentence of the text follows."""
    after = self.sentences[-1].end if self.sentences else 0
    start = max(self.text.find(sentence, after), after)
    end, now = start + len(sentence), self.milliseconds
    self.sentences.append(Sentence(start, end, now, now))

  def add(self, pcm: bytes) -> None:
    """Note that 16-bit samples of the sentence are sent."""
    self._num_bytes += len(pcm)
    self.sentences[-1].end_ms = self.milliseconds

  def finish(self) -> None:
    """Note that all of the sentence was sent."""
    self.sentences[-1].is_complete = True

  def text_until(self, milliseconds: float | int) -> str:
    """Return the beginning of the text that was heard by then, in whole words."""
    end = 0
    for sentence in self.sentences:
      heard = min(milliseconds, sentence.end_ms) - sentence.start_ms
      if heard >= sentence.duration:
        end = sentence.end
      elif heard > 0:
        text = self.text[sentence.start : sentence.end]
        if kept := cut(text, heard / sentence.duration):
          end = sentence.start + len(kept)
    return self.text[:end]


def cut(text: str, fraction: float) -> str:
  """Return the words that lie within this fraction of a text's characters."""
  end = int(fraction * len(text))
  if end < len(text) and not text[end].isspace():
    end = max(text.rfind(' ', 0, end), 0)
  return text[:end].rstrip()
