# SPDX-License-Identifier: Apache-2.0
"""An exported folder beside the JAX model: the numbers for the same recordings."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import torch
from jaxtyping import Array, Float
from transformers import AutoModel, AutoProcessor

import data_pipeline
from acl_jax import build
from acl_jax.evaluation import examples, hearing
from acl_jax.evaluation.answers import generate_responses
from acl_jax.evaluation.rows import Case, Rows, make_batches
from acl_jax.evaluation.scores import MAX_ROWS, TOKENS_PER_BATCH
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from data_pipeline.corpora.utterance import BadUtterance, Utterance

SHIPPED = Path(data_pipeline.__file__).parent / 'recordings' / 'manifest.jsonl'
SHOWN = 8  # shipped recordings, if none are named
MAX_NEW_TOKENS = 32
AUDIO = '<|audio|>'


class Difference(NamedTuple):
  """Of one recording, ours and theirs; logits where the answer's tokens are predicted.

  kl: nats, the mean over tokens. agreement: share of tokens that both like best.
  """

  log_mel: float
  embeddings: float
  logits: float
  kl: float
  agreement: float
  same_answer: bool


def check(
  config: ml_collections.ConfigDict,
  output: Path,
  checkpoint: str | None,
  recordings: Sequence[str],
) -> list[Difference]:
  """Prints how far the folder is from the JAX model; a difference per recording."""
  utterances, bad = _read(recordings)
  text, model = build.load_text_frontend(config), build.load_model(config, checkpoint)
  exported, processor = load(output)
  differences = []
  with progress('check', 3 * len(utterances)) as advance:
    heard, unheard = hearing.encode_utterances(model, None, utterances, advance)
    bad += unheard
    utterances = [u for u in utterances if u.id in heard]
    if not utterances:
      raise ValueError(f'--audio: none can be used; the first: {bad[0].reason}')
    clips = [heard[utterance.id].clip for utterance in utterances]
    cases = _answered(model, text, clips, advance)
    for number, logits in _logits(model, cases):
      sound = hearing.read_audio(model, utterances[number])
      case, log_mel = cases[number], hearing.log_mel(model, sound)
      theirs = run(exported, processor, sound, case.response)
      differences.append(_compare(log_mel, case, logits, theirs))
      advance(1)
  print(table(differences), flush=True)
  if bad:
    print(f'skipped: {len(bad)}, the first: {bad[0].id}: {bad[0].reason}', flush=True)
  return differences


def load(folder: Path, dtype: str = 'auto'):
  """The exported model, in the type it was exported in, and its processor."""
  how = {'trust_remote_code': True}
  model = AutoModel.from_pretrained(folder, torch_dtype=dtype, **how)
  return model.eval(), AutoProcessor.from_pretrained(folder, **how)


def _read(recordings: Sequence[str]) -> tuple[list[Utterance], list[BadUtterance]]:
  """What the flag names, or cannot be used; some that are shipped if it names none."""
  if not recordings:
    return examples.read_manifest(SHIPPED, SHOWN)
  found, bad = [], []
  for name in recordings:
    if name.endswith(('.json', '.jsonl')):
      usable, unusable = examples.read_manifest(name, None)
      found, bad = found + usable, bad + unusable
    else:
      found.append(Utterance(id=name, audio_filepath=Path(name), text=''))
  return found, bad


def _answered(
  model: SpeechLLM,
  text: TextFrontend,
  clips: Sequence[np.ndarray],
  advance: Callable[[int], None],
) -> list[Case]:
  """The recordings as prompts, with the JAX model's greedy answers."""
  cases = [Case(text.spoken(), clip) for clip in clips]
  stop_ids = text.tokenizer.stop_ids
  made = generate_responses(
    model, cases, max_new_tokens=MAX_NEW_TOKENS, stop_ids=stop_ids
  )
  for number, response in made:
    cases[number] = cases[number]._replace(response=response)
    advance(1)
  return cases


def _logits(
  model: SpeechLLM, cases: Sequence[Case]
) -> Iterator[tuple[int, Float[np.ndarray, 'u v']]]:
  """The number of each case, and from what each token of its response is chosen."""
  width = model.llama.config.hidden_size
  for numbers, rows in make_batches(cases, width, TOKENS_PER_BATCH, MAX_ROWS):
    made = np.asarray(_score(model, rows))
    for row, number in enumerate(numbers):
      yield number, made[row, : len(cases[number].response)]


@jax.jit
def _score(model: SpeechLLM, rows: Rows) -> Float[Array, 'b u v']:
  hidden = model.read(*model.splice(rows.prompt, rows.audio, rows.audio_mask))
  at_targets = jnp.take_along_axis(hidden, rows.index[..., None], axis=1)
  return model.llama.logits(at_targets)


@torch.no_grad()
def run(
  exported, processor, sound: np.ndarray, response: Sequence[int]
) -> dict[str, Any]:
  """What the exported model makes of a recording alone: by name, arrays and tokens."""
  turns = [{'role': 'user', 'content': AUDIO}]
  text = processor.apply_chat_template(turns, add_generation_prompt=True)
  inputs = processor(text, audio=sound).to(exported.device)
  embeddings, _, heard = exported.hear(inputs['audio_values'], inputs['audio_lens'])
  start = inputs['input_ids'].shape[1]
  answers = exported.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
  said = torch.tensor([response[:-1]], device=exported.device, dtype=torch.long)
  for name, behind in (('input_ids', said), ('attention_mask', said * 0 + 1)):
    inputs[name] = torch.cat([inputs[name], behind], 1)
  logits = exported(**inputs).logits[0, start - 1 :]
  return {
    'log_mel': inputs['audio_values'][0].T.cpu().numpy(),
    'clip': embeddings[0][heard[0]].float().cpu().numpy(),
    'logits': logits.float().cpu().numpy(),
    'answer': answers[0, start:].tolist(),
  }


def _compare(
  log_mel: np.ndarray, case: Case, logits: np.ndarray, theirs: dict[str, Any]
) -> Difference:
  ours_likely, likely = _log_softmax(logits), _log_softmax(theirs['logits'])
  kl = np.sum(np.exp(ours_likely) * (ours_likely - likely), axis=-1)
  same = logits.argmax(-1) == theirs['logits'].argmax(-1)
  return Difference(
    log_mel=_largest(log_mel, theirs['log_mel']),
    embeddings=_largest(case.clip, theirs['clip']),
    logits=_largest(logits, theirs['logits']),
    kl=float(kl.mean()),
    agreement=float(same.mean()),
    same_answer=list(case.response) == theirs['answer'],
  )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
  shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _largest(ours: np.ndarray | None, theirs: np.ndarray) -> float:
  """The largest difference; infinite where even the shapes differ."""
  if ours is None or ours.shape != theirs.shape:
    return float('inf')
  return float(np.abs(ours - theirs).max(initial=0))


def table(found: Sequence[Difference]) -> str:
  """The differences of all recordings, as a terminal shows them."""
  rows = {
    'log-mel, at most': max(d.log_mel for d in found),
    'audio embeddings, at most': max(d.embeddings for d in found),
    'logits, at most': max(d.logits for d in found),
    'KL divergence, nats, on average': sum(d.kl for d in found) / len(found),
    'KL divergence of a recording, at most': max(d.kl for d in found),
    'tokens that both like best': sum(d.agreement for d in found) / len(found),
  }
  lines = [f'{name:38}{value:12.3g}' for name, value in rows.items()]
  same = sum(d.same_answer for d in found)
  return '\n'.join([*lines, f'{"same greedy answers":38}{same:6} of {len(found)}'])
