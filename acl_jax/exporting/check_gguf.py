# SPDX-License-Identifier: Apache-2.0
"""Compare an exported folder for llama.cpp with the JAX model.

First the files, as our own readers read them; then answers in llama-server, if that is
installed: to written prompts, to audio as llama.cpp hears it, which is filled with
silence up to 30 s, and to audio as we hear it.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import data_pipeline
from acl_jax import assets, build
from acl_jax.config.experiment import TrainConfig
from acl_jax.evaluation import encoding, examples
from acl_jax.evaluation.prompt_batches import PromptBatch, PromptCase, batch_cases
from acl_jax.evaluation.responses import generate_responses
from acl_jax.evaluation.scores import MAX_ROWS, TOKENS_PER_BATCH
from acl_jax.exporting.gguf_folder import LLM_FILE, MMPROJ_FILE, check_tokenizer
from acl_jax.exporting.llama_server import (
  EXACT,
  TESTED_BUILD,
  VARIABLE,
  LlamaServer,
  audio_part,
  find_server,
  run_server,
)
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights.llama import convert_to_huggingface, open_llama
from acl_jax.weights.mmproj import load_mmproj
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.features import SAMPLE_RATE, Frontend

SHIPPED_MANIFEST = Path(data_pipeline.__file__).parent / 'recordings' / 'manifest.jsonl'
DEFAULT_COUNT = 8  # shipped utterances, if --audio is empty
MAX_NEW_TOKENS = 32
CLIP_SECONDS = 30
PROMPTS = (
  'What is the capital of France?',
  'Write a short poem about the sea.',
  'How many days has a week?',
  'Translate "good morning" into French.',
)


class Compared(NamedTuple):
  """Answers in llama.cpp beside ours.

  log_prob: largest difference among the likeliest first tokens.
  """

  same: int
  count: int
  log_prob: float


def check_export(
  config: TrainConfig, output: Path, checkpoint: str | None, audio: Sequence[str]
) -> dict[str, Compared]:
  """Print the differences between a folder and the model; return those of answers.

  Arguments are those of `check.check_export`.
  """
  text = build.load_text_frontend(config.llama, config.template)
  parts = build.find_checkpoint(checkpoint, config.shipped_adapter)
  model = build.load_model(config, parts)
  for name, difference in compare_files(config, output, model, text).items():
    _report(f'{name}, weights, max difference', f'{difference:.3g}')
  program = find_server()
  if program is None or not (output / LLM_FILE).is_file():
    missing = LLM_FILE if program else f'${VARIABLE}'
    _report('llama-server', f'not run: there is no {missing}')
    return {}
  clips = _read_clips(model, audio)
  with run_server(program, output, EXACT) as server:
    _report('llama-server', f'{server.build} (tested: {TESTED_BUILD})')
    compared = compare_answers(model, text, server, clips)
  for name, result in compared.items():
    _report(f'{name}, same answers', f'{result.same} of {result.count}')
    _report('  first token, log-probability, max difference', f'{result.log_prob:.3g}')
  return compared


def _report(name: str, value: str) -> None:
  print(f'{name:52}{value}', flush=True)


def compare_files(
  config: TrainConfig, folder: Path, model: SpeechLLM, text: TextFrontend
) -> dict[str, float]:
  """Return the largest difference of a weight in each file; ValueError if one is wrong.

  Configurations and tokenizer must be equal.
  """
  differences = {}
  if (path := folder / LLM_FILE).is_file():
    check_tokenizer(path, text.tokenizer)
    source, written = open_llama(assets.resolve(config.llama.path)), open_llama(path)
    expected = dict(convert_to_huggingface(source))
    differences[LLM_FILE] = max(
      _difference(tensor.read(), expected[name].read())
      for name, tensor in convert_to_huggingface(written)
    )
  if (path := folder / MMPROJ_FILE).is_file():
    speech = load_mmproj(path)
    pairs = ((speech.encoder, model.encoder.tower), (speech.adapter, model.adapter))
    differences[MMPROJ_FILE] = max(
      jax.tree.leaves(
        [
          jax.tree.map(_difference, nnx.state(a), nnx.state(b))  # type: ignore
          for a, b in pairs
        ]
      )
    )
  if not differences:
    raise FileNotFoundError(f'{folder}: has neither {LLM_FILE} nor {MMPROJ_FILE}')
  return differences


def _difference(a: Any, b: Any) -> float:
  return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max())


def _read_clips(model: SpeechLLM, audio: Sequence[str]) -> list[np.ndarray]:
  """Return the samples of --audio: files, or the first of the shipped manifest."""
  if audio:
    utterances = [
      Utterance(id=name, audio_filepath=Path(name), text='') for name in audio
    ]
  else:
    utterances, _ = examples.read_manifest(SHIPPED_MANIFEST, DEFAULT_COUNT)
  return [encoding.read_audio(model, utterance) for utterance in utterances]


def compare_answers(
  model: SpeechLLM,
  text: TextFrontend,
  server: LlamaServer,
  clips: Sequence[np.ndarray],
) -> dict[str, Compared]:
  """Compare greedy answers and the log-probabilities of their first tokens."""
  written = [PromptCase(text.prompt(prompt)) for prompt in PROMPTS]
  filled = [PromptCase(text.audio_prompt(), [hear_filled(model, c)]) for c in clips]
  whole = [PromptCase(text.audio_prompt(), [hear(model, c)]) for c in clips]
  contents = [*PROMPTS, *([audio_part(clip)] for clip in clips)]
  theirs = [
    server.answer([{'role': 'user', 'content': content}], MAX_NEW_TOKENS)
    for content in contents
  ]
  cases, start = {}, len(written)
  cases['written prompts'] = written, theirs[:start]
  cases[f'audio, filled up to {CLIP_SECONDS} s'] = filled, theirs[start:]
  cases['audio, as long as it is'] = whole, theirs[start:]
  return {
    name: _compare(model, text, ours, answers)
    for name, (ours, answers) in cases.items()
    if ours
  }


def _compare(model, text, cases, answers) -> Compared:
  """Compare our answers to `cases` with those of llama.cpp."""
  responses = generate_responses(
    model, cases, max_new_tokens=MAX_NEW_TOKENS, stop_ids=text.tokenizer.stop_ids
  )
  texts = {i: text.tokenizer.decode(ids) for i, ids in responses}
  same = sum(texts[i].strip() == a.text.strip() for i, a in enumerate(answers))
  largest = 0.0
  for index, log_probs in first_log_probs(model, cases):
    first: Mapping[int, float] = answers[index].first
    gaps = (abs(log_probs[id] - value) for id, value in first.items())
    largest = max(largest, *map(float, gaps))
  return Compared(same, len(cases), largest)


def hear_filled(
  model: SpeechLLM, samples: Float[np.ndarray, ' samples']
) -> Float[np.ndarray, 's e']:
  """Return the embeddings of a clip that is filled with silence up to 30 s."""
  config = dataclasses.replace(model.encoder.config, trailing_silence=0)
  missing = CLIP_SECONDS * SAMPLE_RATE - len(samples)
  return _encode(model, Frontend.of(config).log_mel(np.pad(samples, (0, missing))))


def hear(
  model: SpeechLLM, samples: Float[np.ndarray, ' samples']
) -> Float[np.ndarray, 's e']:
  """Return the embeddings of a clip, as the model was trained to hear it."""
  return _encode(model, encoding.compute_log_mel(model, samples))


def _encode(model: SpeechLLM, log_mel: Float[np.ndarray, 't m']) -> np.ndarray:
  padded = np.zeros((1, model.encoder.config.max_frames, log_mel.shape[1]), np.float32)
  length = min(len(log_mel), padded.shape[1])
  padded[0, :length] = log_mel[:length]
  clips, mask = _adapt(model, padded, np.arange(padded.shape[1])[None] < length)
  return np.asarray(clips[0][mask[0]])


@jax.jit
def _adapt(model: SpeechLLM, log_mel: Any, mask: Any) -> tuple[Array, Array]:
  return model.adapt(*model.encoder(log_mel, mask))


def first_log_probs(
  model: SpeechLLM, cases: Sequence[PromptCase]
) -> Iterator[tuple[int, Float[np.ndarray, ' v']]]:
  """Yield the index of each case and the log-probabilities of its first token."""
  width = model.llama.config.hidden_size
  cases = [case._replace(response=(0,)) for case in cases]
  for indices, batch in batch_cases(cases, width, TOKENS_PER_BATCH, MAX_ROWS):
    rows = np.asarray(_first(model, batch))
    yield from ((index, rows[row]) for row, index in enumerate(indices))


@jax.jit
def _first(model: SpeechLLM, batch: PromptBatch) -> Float[Array, 'b v']:
  x, segment_ids = model.splice(batch.prompt, batch.audio, batch.audio_mask)
  hidden = model.hidden_states(x, segment_ids)
  at_first = jax.numpy.take_along_axis(
    hidden, batch.target_positions[:, :1, None], axis=1
  )
  return jax.nn.log_softmax(model.llama.logits(at_first)[:, 0])
