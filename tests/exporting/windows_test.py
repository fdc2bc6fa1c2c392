# SPDX-License-Identifier: Apache-2.0
"""Long recordings are cut as `acl_jax.hearing` cuts them, and heard alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.exporting.files.windows import cut
from acl_jax.hearing.hearing import Hearing
from acl_jax.hearing.windows import Windows, WindowSizes

RATE = 16_000


def speech_like(seconds, seed):
  """Return noise with pauses, some of them long."""
  rng = np.random.default_rng(seed)
  samples = rng.normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
  for start in rng.integers(0, len(samples), 5):
    samples[start : start + rng.integers(RATE // 10, 2 * RATE)] *= 1e-3
  return samples


@settings(max_examples=25)
@given(
  seconds=st.floats(0.1, 9), window=st.sampled_from([66, 150, 300]), seed=st.integers(0)
)
def test_pieces_are_those_of_our_windows(seconds, window, seed):
  samples = speech_like(seconds, seed)
  windows = Windows(WindowSizes(window, 2))
  parts = [*windows.append(samples), windows.finish()]
  expected = [part.alone().samples for part in parts if not part.silent]
  pieces = cut(samples, window, 2)
  assert list(map(len, pieces)) == list(map(len, expected))
  for piece, samples in zip(pieces, expected, strict=True):
    np.testing.assert_array_equal(piece, samples)


def test_a_long_recording_is_heard_as_ours(export_kind):
  exported = export_kind('attention')
  model, processor = exported.load()
  jax_model, text = exported.load_jax()
  samples = np.random.default_rng(4).normal(0, 0.1, 52_800).astype(np.float32)
  hearing = Hearing(jax_model, text.tokenizer, text.tokenizer.decode)
  expected = hearing.hear(samples).embeddings
  inputs = processor('<|audio|>', audio=samples)
  assert len(inputs['audio_lens']) > 3
  names = ('input_ids', 'attention_mask', 'audio_values', 'audio_lens')
  with torch.no_grad():
    embeddings, mask = model.embed_prompt(*(inputs[name] for name in names))
  is_audio = inputs['input_ids'] == model.config.audio_token_index
  heard = embeddings[is_audio & (mask > 0)].numpy()
  spaces = embeddings[~is_audio].numpy()
  assert len(spaces) and len(heard) > 10
  ours = [row for row in expected if not any(np.allclose(row, s) for s in spaces)]
  np.testing.assert_allclose(heard, np.stack(ours), atol=1e-4)


def test_too_many_seconds_are_refused(export_kind):
  _, processor = export_kind('attention').load()
  with pytest.raises(ValueError, match=r'300\.5 s.* 300 s'):
    processor('<|audio|>', audio=np.zeros(4_808_000, np.float32))
