# SPDX-License-Identifier: Apache-2.0
"""The shipped model hears a long recording about as well as its parts alone."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acl_jax
import data_pipeline
from acl_jax.batches.padded import pad_to_step
from acl_jax.evaluation.summary import word_error_rate
from acl_jax.hearing.pieces import FRAME_STEP
from acl_jax.hearing.windows import Windows
from data_pipeline import audio
from data_pipeline.features import Frontend

FOLDER = Path(data_pipeline.__file__).parent / 'recordings'
NUM_WINDOWS = 3


@pytest.mark.full
def test_a_long_recording_is_heard_as_well_as_its_parts():
  assistant, rng = acl_jax.load('smol'), np.random.default_rng(0)
  entries = map(json.loads, (FOLDER / 'manifest.jsonl').read_text().splitlines())
  entries = [entry for entry in entries if 3.4 < entry['duration'] < 8]
  rng.shuffle(entries)
  windows = Windows(assistant.hearing.recogniser.sizes)
  listener = assistant.hearing.listen()
  texts, alone, count = [], [], 1
  while count < NUM_WINDOWS:
    entry = entries.pop()
    samples = audio.read(FOLDER / entry['audio_filepath'])
    texts.append(entry['text'])
    alone.append(assistant.transcribe(samples))
    for block in (samples, rng.normal(size=6_400).astype(np.float32) * 1e-4):
      listener.append(block)
      count += len([*windows.append(block)])
  together = listener.finish().transcript
  reference = [' '.join(texts)]
  errors = word_error_rate(reference, [' '.join(alone)])
  assert word_error_rate(reference, [together]) < errors + 0.04, together
  assert errors < 0.15

  log_mel = Frontend.of(assistant.model.encoder.config).log_mel(samples)
  mels = pad_to_step([log_mel], 1, 3_000, FRAME_STEP)
  encode = jax.jit(lambda model, *mels: model.encode_audio(*map(jnp.asarray, mels)))
  embeddings, mask = encode(assistant.model, *mels)
  expected = np.asarray(embeddings)[mask]
  assert np.abs(assistant.encode(samples) - expected).max() == 0.0
