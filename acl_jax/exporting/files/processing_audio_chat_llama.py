# SPDX-License-Identifier: Apache-2.0
"""Prepare text and audio for the model, and decode its tokens."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin, WhisperFeatureExtractor

from .log_mel import HOP, SAMPLE_RATE, WINDOW, log_mel
from .windows import cut

AUDIO_TOKEN = '<|audio|>'
MAX_SECONDS = 300.0  # of a clip
ENGINE_CHUNKS = 16


class AudioChatLlamaProcessor(ProcessorMixin):
  """Tokenises text with `<|audio|>` placeholders and computes log-mel spectrograms.

  features: definition of the log-mel spectrogram, a key of `log_mel.LOG_MEL`.
  trailing_silence: frames of 10 ms that are appended to every clip.
  window_frames: frames of 10 ms of a longer clip that are encoded at a time.
  subsampling: frames of 10 ms per encoder frame. stack_factor: encoder frames per
  position of the prompt.
  """

  attributes = ['tokenizer']
  tokenizer_class = 'AutoTokenizer'

  def __init__(
    self,
    tokenizer=None,
    features: str = 'whisper',
    num_mel_bins: int = 80,
    trailing_silence: int = 0,
    window_frames: int = 3_000,
    subsampling: int = 2,
    stack_factor: int = 8,
    chat_template: str | None = None,
  ):
    self.features, self.num_mel_bins = features, num_mel_bins
    self.trailing_silence = trailing_silence
    self.window_frames = window_frames
    self.subsampling, self.stack_factor = subsampling, stack_factor
    super().__init__(tokenizer, chat_template=chat_template)

  @property
  def model_input_names(self) -> list[str]:
    """Names of the model's inputs."""
    return ['input_ids', 'attention_mask', 'audio_values', 'audio_lens']

  @property
  def audio_processor(self) -> WhisperFeatureExtractor:
    """Describes the audio to vLLM, which takes it from an Ultravox's processor."""
    return _describe_audio(self.num_mel_bins)

  def __call__(
    self,
    text: str | Sequence[str] = (),
    audio: Any = None,
    sampling_rate: int = SAMPLE_RATE,
    return_tensors: str = 'pt',
    audios: Any = None,
    include_audio_num_chunks: bool = False,
    **kwargs,
  ) -> BatchFeature:
    """Return prompts, padded on the left, and the features of their audio clips.

    text: one prompt or several, as `apply_chat_template` returns them.
    audio: samples of one clip, or a list of clips, in the order of the placeholders of
      all texts; floats in [-1, 1] or integers, [n] or [n channels].
    audios, include_audio_num_chunks: how an Ultravox is called; `audio_num_chunks` are
      the windows of every clip, at least one.
    ValueError if the placeholders and the clips differ in number.
    """
    audio = audios if audio is None else audio
    texts = [text] if isinstance(text, str) else list(text)
    clips = _flatten_clips(audio)
    placeholders = sum(text.count(AUDIO_TOKEN) for text in texts)
    if placeholders != len(clips):
      raise ValueError(
        f'the text contains {AUDIO_TOKEN} {placeholders} times, but there are'
        f' {len(clips)} audio clips'
      )
    windows = [
      self._compute_log_mels(clip, sampling_rate, keep_silence=include_audio_num_chunks)
      for clip in clips
    ]
    log_mels = [mel for mels in windows for mel in mels]
    lengths = [[self._num_positions(len(mel)) for mel in mels] for mels in windows]
    remaining_lengths = iter(lengths)
    rows = [self._tokenize(text, remaining_lengths) for text in texts]
    width = max(map(len, rows), default=0)
    pad = self.tokenizer.pad_token_id
    pad = self.tokenizer.eos_token_id if pad is None else pad
    inputs: dict[str, Any] = {
      'input_ids': [[pad] * (width - len(row)) + row for row in rows],
      'attention_mask': [[0] * (width - len(row)) + [1] * len(row) for row in rows],
    }
    if log_mels:
      inputs |= _pad_log_mels(log_mels) | {
        'audio_token_len': [n for clip in lengths for n in clip]
      }
      if include_audio_num_chunks:
        inputs['audio_num_chunks'] = [len(clip) for clip in lengths]
    return BatchFeature(inputs, tensor_type=return_tensors)

  def apply_chat_template(self, conversation, *args, **kwargs):
    """Return the text of a conversation, with `<|audio|>` for each part that is audio.

    A turn's content is a text, or a list of parts of the types text and audio.
    """
    return super().apply_chat_template(_join_contents(conversation), *args, **kwargs)

  def _tokenize(self, text: str, audio_lengths: Iterator[list[int]]) -> list[int]:
    """Return the ids of a text; audio tokens fill the positions of each clip.

    audio_lengths: positions of every window of every clip; a space is put between
    windows.
    """
    first, *others = text.split(AUDIO_TOKEN)
    audio_id = self.tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)
    ids = self._encode(self._strip_before_audio(first) if others else first)
    for number, part in enumerate(others, 1):
      for window, length in enumerate(next(audio_lengths)):
        ids += self._encode_continuation(' ') if window else []
        ids += [audio_id] * length
      part = self._strip_before_audio(part) if number < len(others) else part
      ids += self._encode_continuation(part) if part else []
    return ids

  def _encode(self, text: str) -> list[int]:
    return self.tokenizer(text, add_special_tokens=False)['input_ids']

  def _encode_continuation(self, text: str) -> list[int]:
    """Return the ids of text that continues a prompt: no space is put before it."""
    if not self._adds_prefix_space():
      return self._encode(text)
    newline = self._encode('\n')  # takes the prefix space, and stays a token of its own
    return self._encode('\n' + text)[len(newline) :]

  def _strip_before_audio(self, text: str) -> str:
    """Drop a final space: it belongs to the next word's token, and that is spoken."""
    return text.removesuffix(' ') if self._adds_prefix_space() else text

  def _adds_prefix_space(self) -> bool:
    """Whether the tokenizer puts a space before the first word of a text."""
    return self._encode('\na')[len(self._encode('\n')) :] != self._encode('a')

  def _compute_log_mels(
    self, clip: Any, sampling_rate: int, keep_silence: bool
  ) -> list[np.ndarray]:
    """Return the log-mel spectrogram [t m] of every window of a clip.

    keep_silence: also of a long clip that is nothing but silence. ValueError if the
    clip is too long.
    """
    waveform = _resample(_to_mono(np.asarray(clip)), sampling_rate)
    if (seconds := len(waveform) / SAMPLE_RATE) > MAX_SECONDS:
      raise ValueError(
        f'an audio clip has {seconds:.1f} s; the limit is {MAX_SECONDS:g} s'
      )
    pieces = cut(waveform, self.window_frames, self.subsampling)
    if keep_silence and not pieces:
      size = self.window_frames * HOP
      starts = range(0, len(waveform) - WINDOW, size)
      pieces = [waveform[start : start + size] for start in starts]
    return [
      log_mel(self.features, piece, self.num_mel_bins, self.trailing_silence)
      for piece in pieces
    ]

  def _num_positions(self, frames: int) -> int:
    """Number of positions that a clip takes in the prompt."""
    return math.ceil(math.ceil(frames / self.subsampling) / self.stack_factor)

  def batch_decode(self, *args, **kwargs):
    return self.tokenizer.batch_decode(*args, **kwargs)

  def decode(self, *args, **kwargs):
    return self.tokenizer.decode(*args, **kwargs)


@functools.cache
def _describe_audio(num_mel_bins: int) -> WhisperFeatureExtractor:
  # vLLM reserves memory for a clip of so many times `chunk_length`.
  seconds = int(MAX_SECONDS) // ENGINE_CHUNKS
  return WhisperFeatureExtractor(feature_size=num_mel_bins, chunk_length=seconds)


def _join_contents(conversation: Any) -> Any:
  """Return turns whose content is a text; conversations may be a list of them."""
  if not isinstance(conversation, dict):
    return [_join_contents(each) for each in conversation]
  content = conversation.get('content')
  if not isinstance(content, (list, tuple)):
    return conversation
  texts = [AUDIO_TOKEN if p['type'] == 'audio' else p['text'] for p in content]
  return {**conversation, 'content': ''.join(texts)}


def _flatten_clips(audio: Any) -> list[Any]:
  """Return the clips of nested lists; a clip is an array or a list of numbers."""
  if audio is None:
    return []
  if isinstance(audio, (list, tuple)) and not np.isscalar(next(iter(audio), 0.0)):
    return [clip for part in audio for clip in _flatten_clips(part)]
  return [audio]


def _to_mono(samples: np.ndarray) -> np.ndarray:
  """Convert to floats in [-1, 1] of one channel."""
  if np.issubdtype(samples.dtype, np.integer):
    samples = samples / -float(np.iinfo(samples.dtype).min)
  samples = samples.astype(np.float32)
  if samples.ndim == 1:
    return samples
  channel_axis = int(samples.shape[1] < len(samples))
  return samples.mean(axis=channel_axis)


def _resample(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
  """Resample to 16 kHz in the frequency domain."""
  if sampling_rate == SAMPLE_RATE:
    return waveform
  if sampling_rate <= 0:
    raise ValueError(f'sampling_rate is {sampling_rate}; it must be above 0')
  samples = round(len(waveform) * SAMPLE_RATE / sampling_rate)
  spectrum = torch.fft.rfft(torch.from_numpy(waveform.copy()))
  resampled = torch.fft.irfft(spectrum[: samples // 2 + 1], samples)
  return (resampled * (samples / len(waveform))).numpy()


def _pad_log_mels(log_mels: list[np.ndarray]) -> dict[str, Any]:
  """Return spectrograms [a m t], zero-padded, and the frames of each."""
  lens = [len(mel) for mel in log_mels]
  values = np.zeros((len(lens), log_mels[0].shape[1], max(lens)), np.float32)
  for row, mel in zip(values, log_mels, strict=True):
    row[:, : len(mel)] = mel.T
  return {'audio_values': values, 'audio_lens': lens}
