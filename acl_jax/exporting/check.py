# SPDX-License-Identifier: Apache-2.0
"""Compare an exported folder with the JAX model on the same utterances."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float
from transformers import AutoModel, AutoProcessor

import data_pipeline
from acl_jax import build
from acl_jax.config.experiment import TrainConfig
from acl_jax.evaluation import encoding, examples
from acl_jax.evaluation.prompt_batches import PromptBatch, PromptCase, batch_cases
from acl_jax.evaluation.responses import generate_responses
from acl_jax.evaluation.scores import MAX_ROWS, TOKENS_PER_BATCH
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from data_pipeline.corpora.utterance import BadUtterance, Utterance

SHIPPED_MANIFEST = Path(data_pipeline.__file__).parent / 'recordings' / 'manifest.jsonl'
DEFAULT_COUNT = 8  # shipped utterances, if --audio is empty
MAX_NEW_TOKENS = 32
AUDIO_TOKEN = '<|audio|>'


class Difference(NamedTuple):
  """Differences between the JAX model and the exported one for one utterance.

  log_mel, embeddings, logits: largest absolute difference; logits are those that
  predict the tokens of the JAX model's response. kl: mean KL divergence per token, in
  nats. agreement: fraction of tokens with the same argmax.
  """

  log_mel: float
  embeddings: float
  logits: float
  kl: float
  agreement: float
  same_response: bool


def check_export(
  config: TrainConfig,
  output: Path,
  checkpoint: str | None,
  audio: Sequence[str],
) -> list[Difference]:
  """Print and return the differences between an exported folder and the JAX model.

  checkpoint: as of `acl_jax.export`. audio: audio files and manifests; if empty, some
  shipped utterances. ValueError if none can be used.
  """
  utterances, bad = _read_utterances(audio)
  text = build.load_text_frontend(config.llama, config.template)
  parts = build.find_checkpoint(checkpoint, config.shipped_adapter)
  model = build.load_model(config, parts)
  exported, processor = load_exported(output)
  differences = []
  with progress('check', 3 * len(utterances)) as advance:
    encoded, failed = encoding.encode_utterances(model, None, utterances, advance)
    bad += failed
    utterances = [u for u in utterances if u.id in encoded]
    if not utterances:
      raise ValueError(f'--audio: none can be used; the first: {bad[0].reason}')
    clips = [encoded[utterance.id].clip for utterance in utterances]
    cases = _generate_cases(model, text, clips, advance)
    for index, logits in response_logits(model, cases):
      waveform = encoding.read_audio(model, utterances[index])
      log_mel = encoding.compute_log_mel(model, waveform)
      theirs = run_exported(exported, processor, waveform, cases[index].response)
      differences.append(compare_outputs(log_mel, cases[index], logits, theirs))
      advance(1)
  print(format_differences(differences), flush=True)
  if bad:
    print(f'skipped: {len(bad)}, the first: {bad[0].id}: {bad[0].reason}', flush=True)
  return differences


def load_exported(folder: Path, dtype: str = 'auto'):
  """Load an exported model and its processor; by default in the exported dtype."""
  model = AutoModel.from_pretrained(folder, torch_dtype=dtype, trust_remote_code=True)
  processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
  return model.eval(), processor


def _read_utterances(
  audio: Sequence[str],
) -> tuple[list[Utterance], list[BadUtterance]]:
  """Return the usable and the unusable utterances of --audio."""
  if not audio:
    return examples.read_manifest(SHIPPED_MANIFEST, DEFAULT_COUNT)
  usable, bad = [], []
  for name in audio:
    if name.endswith(('.json', '.jsonl')):
      listed, unusable = examples.read_manifest(name, None)
      usable += listed
      bad += unusable
    else:
      usable.append(Utterance(id=name, audio_filepath=Path(name), text=''))
  return usable, bad


def _generate_cases(
  model: SpeechLLM,
  text: TextFrontend,
  clips: Sequence[np.ndarray],
  advance: Callable[[int], None],
) -> list[PromptCase]:
  """Return audio prompts with the JAX model's greedy responses."""
  cases = [PromptCase(text.audio_prompt(), [clip]) for clip in clips]
  responses = generate_responses(
    model,
    cases,
    max_new_tokens=MAX_NEW_TOKENS,
    stop_ids=text.tokenizer.stop_ids,
  )
  for index, response in responses:
    cases[index] = cases[index]._replace(response=response)
    advance(1)
  return cases


def response_logits(
  model: SpeechLLM, cases: Sequence[PromptCase]
) -> Iterator[tuple[int, Float[np.ndarray, 'u v']]]:
  """Yield the index of each case and the logits that predict its response tokens."""
  width = model.llama.config.hidden_size
  for indices, batch in batch_cases(cases, width, TOKENS_PER_BATCH, MAX_ROWS):
    logits = np.asarray(_compute_logits(model, batch))
    for row, index in enumerate(indices):
      yield index, logits[row, : len(cases[index].response)]


@jax.jit
def _compute_logits(model: SpeechLLM, batch: PromptBatch) -> Float[Array, 'b u v']:
  x, segment_ids = model.splice(batch.prompt, batch.audio, batch.audio_mask)
  hidden = model.hidden_states(x, segment_ids)
  at_targets = jnp.take_along_axis(hidden, batch.target_positions[..., None], axis=1)
  return model.llama.logits(at_targets)


@torch.no_grad()
def run_exported(
  exported, processor, waveform: np.ndarray, response: Sequence[int]
) -> dict[str, Any]:
  """Run an exported model on a prompt that is one audio clip.

  Returns `log_mel` [t m], `clip` [n e] (audio embeddings), `logits` [u v] (that predict
  the tokens of `response`) and `response` (its own greedy one).
  """
  turns = [{'role': 'user', 'content': AUDIO_TOKEN}]
  text = processor.apply_chat_template(turns, add_generation_prompt=True)
  inputs = processor(text, audio=waveform).to(exported.device)
  embeddings, _, embedding_mask = exported.encode_audio(
    inputs['audio_values'], inputs['audio_lens']
  )
  start = inputs['input_ids'].shape[1]
  generated = exported.generate(
    **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False
  )
  forced = torch.tensor([response[:-1]], device=exported.device, dtype=torch.long)
  extensions = {'input_ids': forced, 'attention_mask': torch.ones_like(forced)}
  for name, extension in extensions.items():
    inputs[name] = torch.cat([inputs[name], extension], 1)
  logits = exported(**inputs).logits[0, start - 1 :]
  return {
    'log_mel': inputs['audio_values'][0].T.cpu().numpy(),
    'clip': embeddings[0][embedding_mask[0]].float().cpu().numpy(),
    'logits': logits.float().cpu().numpy(),
    'response': generated[0, start:].tolist(),
  }


def compare_outputs(
  log_mel: np.ndarray, case: PromptCase, logits: np.ndarray, theirs: dict[str, Any]
) -> Difference:
  """Compare the JAX model's outputs for `case` with those of `run_exported`."""
  log_probs, their_log_probs = _log_softmax(logits), _log_softmax(theirs['logits'])
  kl = np.sum(np.exp(log_probs) * (log_probs - their_log_probs), axis=-1)
  same_argmax = logits.argmax(-1) == theirs['logits'].argmax(-1)
  return Difference(
    log_mel=_max_difference(log_mel, theirs['log_mel']),
    embeddings=_max_difference(case.clips[0], theirs['clip']),
    logits=_max_difference(logits, theirs['logits']),
    kl=float(kl.mean()),
    agreement=float(same_argmax.mean()),
    same_response=list(case.response) == theirs['response'],
  )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
  shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _max_difference(ours: np.ndarray | None, theirs: np.ndarray) -> float:
  """Largest absolute difference; infinite if the shapes differ."""
  if ours is None or ours.shape != theirs.shape:
    return float('inf')
  return float(np.abs(ours - theirs).max(initial=0))


def format_differences(differences: Sequence[Difference]) -> str:
  """Summarise the differences of all utterances as a text table."""
  count = len(differences)
  rows = {
    'log-mel, max difference': max(d.log_mel for d in differences),
    'audio embeddings, max difference': max(d.embeddings for d in differences),
    'logits, max difference': max(d.logits for d in differences),
    'KL divergence, nats, mean': sum(d.kl for d in differences) / count,
    'KL divergence, nats, max per utterance': max(d.kl for d in differences),
    'tokens with the same argmax': sum(d.agreement for d in differences) / count,
  }
  lines = [f'{name:38}{value:12.3g}' for name, value in rows.items()]
  same = sum(d.same_response for d in differences)
  return '\n'.join([*lines, f'{"same greedy responses":38}{same:6} of {count}'])
