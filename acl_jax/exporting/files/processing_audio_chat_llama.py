# SPDX-License-Identifier: Apache-2.0
"""From text and audio to what the model reads, and from its tokens back to text."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .log_mel import SAMPLE_RATE, log_mel


class AudioChatLlamaProcessor(ProcessorMixin):
  """Text with `<|audio|>` in it, and the audios in the order of these.

  features: whose log-mel spectrogram the encoder was trained with. max_frames: what it
  hears at most, in frames of 10 ms. subsampling: these in an encoder frame.
  stack_factor: encoder frames in a place of the prompt.
  """

  attributes = ['tokenizer']
  tokenizer_class = 'AutoTokenizer'

  def __init__(
    self,
    tokenizer=None,
    features: str = 'whisper',
    num_mel_bins: int = 80,
    max_frames: int = 3_000,
    subsampling: int = 2,
    stack_factor: int = 8,
    audio_token: str = '<|audio|>',
    chat_template: str | None = None,
  ):
    self.features, self.num_mel_bins = features, num_mel_bins
    self.max_frames, self.subsampling = max_frames, subsampling
    self.stack_factor, self.audio_token = stack_factor, audio_token
    super().__init__(tokenizer, chat_template=chat_template)

  @property
  def model_input_names(self) -> list[str]:
    """What the model is given."""
    return ['input_ids', 'attention_mask', 'audio_values', 'audio_lens']

  def __call__(
    self,
    text: str | Sequence[str] = (),
    audio: Any = None,
    sampling_rate: int = SAMPLE_RATE,
    return_tensors: str = 'pt',
    **kwargs,
  ) -> BatchFeature:
    """Prompts, padded on the left, and their audios.

    text: one or several, as `apply_chat_template` makes them.
    audio: samples of one audio, or a list of such, for all places in all texts; floats
      in [-1, 1] or integers, [n] or [n channels].
    """
    texts = [text] if isinstance(text, str) else list(text)
    log_mels = [self._listen(sound, sampling_rate) for sound in _flatten(audio)]
    wanted = sum(text.count(self.audio_token) for text in texts)
    if wanted != len(log_mels):
      raise ValueError(
        f'the text has {self.audio_token} {wanted} times for {len(log_mels)} audios'
      )
    places = [self._count(len(mel)) for mel in log_mels]
    left = iter(places)
    rows = [self._tokenize(text, left) for text in texts]
    width = max(map(len, rows), default=0)
    pad = self.tokenizer.pad_token_id
    pad = self.tokenizer.eos_token_id if pad is None else pad
    made: dict[str, Any] = {
      'input_ids': [[pad] * (width - len(row)) + row for row in rows],
      'attention_mask': [[0] * (width - len(row)) + [1] * len(row) for row in rows],
    }
    if log_mels:
      made |= _pad(log_mels) | {'audio_token_len': places}
    return BatchFeature(made, tensor_type=return_tensors)

  def _tokenize(self, text: str, places) -> list[int]:
    """The ids of a text, with so many audio tokens for each audio in it."""
    first, *others = text.split(self.audio_token)
    audio = self.tokenizer.convert_tokens_to_ids(self.audio_token)
    ids = self._encode(self._before_audio(first) if others else first)
    for number, part in enumerate(others, 1):
      ids += [audio] * next(places)
      part = self._before_audio(part) if number < len(others) else part
      ids += self._encode_on(part) if part else []
    return ids

  def _encode(self, text: str) -> list[int]:
    return self.tokenizer(text, add_special_tokens=False)['input_ids']

  def _encode_on(self, text: str) -> list[int]:
    """The ids of text in the middle of a sentence."""
    if not self._opens_with_space():
      return self._encode(text)
    line = self._encode('\n')  # a token of its own; what opens the text opens it
    return self._encode('\n' + text)[len(line) :]

  def _before_audio(self, text: str) -> str:
    """The space belongs to the first spoken word, where a written one would have it."""
    return text.removesuffix(' ') if self._opens_with_space() else text

  def _opens_with_space(self) -> bool:
    """Whether the tokenizer puts a space before the first word of a text."""
    return self._encode('\na')[len(self._encode('\n')) :] != self._encode('a')

  def _listen(self, sound: Any, rate: int) -> np.ndarray:
    """The log-mel spectrogram [t m]."""
    mono = _mono(np.asarray(sound))
    made = log_mel(self.features, _resample(mono, rate), self.num_mel_bins)
    if len(made) > self.max_frames:
      raise ValueError(
        f'an audio has {len(made) / 100:.1f} s; the encoder hears'
        f' {self.max_frames // 100} s'
      )
    return made

  def _count(self, frames: int) -> int:
    """The places of an audio in the prompt."""
    return math.ceil(math.ceil(frames / self.subsampling) / self.stack_factor)

  def batch_decode(self, *args, **kwargs):
    return self.tokenizer.batch_decode(*args, **kwargs)

  def decode(self, *args, **kwargs):
    return self.tokenizer.decode(*args, **kwargs)


def _flatten(audio: Any) -> list[Any]:
  """One audio, a list of them, or a list of such lists; an audio is numbers."""
  if audio is None:
    return []
  if isinstance(audio, (list, tuple)) and not np.isscalar(next(iter(audio), 0.0)):
    return [sound for part in audio for sound in _flatten(part)]
  return [audio]


def _mono(sound: np.ndarray) -> np.ndarray:
  """Floats in [-1, 1] of one channel."""
  if np.issubdtype(sound.dtype, np.integer):
    sound = sound / -float(np.iinfo(sound.dtype).min)
  sound = sound.astype(np.float32)
  return sound if sound.ndim == 1 else sound.mean(axis=int(sound.shape[1] < len(sound)))


def _resample(sound: np.ndarray, rate: int) -> np.ndarray:
  """At 16 kHz, by way of the spectrum."""
  if rate == SAMPLE_RATE:
    return sound
  if rate <= 0:
    raise ValueError(f'sampling_rate is {rate}, should be above 0')
  samples = round(len(sound) * SAMPLE_RATE / rate)
  spectrum = torch.fft.rfft(torch.from_numpy(sound.copy()))
  resampled = torch.fft.irfft(spectrum[: samples // 2 + 1], samples)
  return (resampled * (samples / len(sound))).numpy()


def _pad(log_mels: list[np.ndarray]) -> dict[str, Any]:
  """Spectrograms [a m t], zeros behind them, and how long each is."""
  lens = [len(mel) for mel in log_mels]
  values = np.zeros((len(lens), log_mels[0].shape[1], max(lens)), np.float32)
  for row, mel in zip(values, log_mels, strict=True):
    row[:, : len(mel)] = mel.T
  return {'audio_values': values, 'audio_lens': lens}
