# SPDX-License-Identifier: Apache-2.0
"""What is evaluated: utterances, and the six ways in which the LLM is given each."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from acl_jax.evaluation.rows import Case, row_length
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.layout import Segment
from data_pipeline import corpora
from data_pipeline.corpora.utterance import BadUtterance, Utterance

CONDITIONS = (
  'text',
  'audio',
  'cascade',
  'cascade_ctc',
  'shuffled_audio',
  'no_prompt',
)


@dataclasses.dataclass(frozen=True)
class Example:
  """An utterance and everything that was made of it.

  heard: CTC's hard decision. cascade: the strong recogniser's transcript. Either may be
  missing, then for all examples.
  """

  utterance: Utterance
  clip: Float[np.ndarray, 'n e']
  heard: str | None = None
  cascade: str | None = None
  response: tuple[int, ...] = ()

  def prompts(self, text: TextFrontend) -> dict[str, list[Segment]]:
    """The prompt of each condition; without those that there are not."""
    words = {
      'text': self.utterance.text,
      'cascade': self.cascade,
      'cascade_ctc': self.heard,
      'no_prompt': '',
    }
    written = {k: text.prompt(v) for k, v in words.items() if v is not None}
    return written | {'audio': text.spoken(), 'shuffled_audio': text.spoken()}


def read_manifest(
  manifest: str | Path, limit: int | None
) -> tuple[list[Utterance], list[BadUtterance]]:
  """The first `limit` entries of a manifest: those to use, and those that cannot be."""
  usable, bad = [], []
  for item in itertools.islice(corpora.open_corpus('manifest', manifest), limit):
    if isinstance(item, BadUtterance):
      bad.append(item)
    elif not item.text.strip():
      bad.append(BadUtterance(item.id, 'text', 'text is empty'))
    elif item.response is not None and not item.response.strip():
      bad.append(BadUtterance(item.id, 'response', 'response is empty'))
    else:
      usable.append(item)
  return usable, bad


def check_context_length(
  example: Example,
  text: TextFrontend,
  longest: np.ndarray,
  context: int,
  max_new_tokens: int,
) -> None:
  """ValueError if a prompt of the example cannot be made, or leaves no room to answer.

  longest: the longest clip of all, as any may be shuffled to this example.
  """
  given = example.utterance.response
  most = 0 if given is None else len(text.tokenizer.encode(given)) + 1
  room = context - max(max_new_tokens, most)
  for name, prompt in example.prompts(text).items():
    spoken = any(isinstance(segment, int) for segment in prompt)
    needed = row_length(Case(prompt, longest if spoken else None))
    if needed > room:
      raise ValueError(
        f'{name} makes a prompt of {needed} tokens; the context of {context} and the '
        f'response leave {room}'
      )


def derange(count: int, seed: int = 0) -> list[int] | None:
  """Another number for each of `count` numbers, all different: one random cycle.

  None where there is only one.
  """
  if count < 2:
    return None
  order = np.random.default_rng(seed).permutation(count)
  partners = np.empty(count, int)
  partners[order] = np.roll(order, 1)
  return partners.tolist()


def make_cases(
  text: TextFrontend, examples: Sequence[Example]
) -> dict[str, list[Case]]:
  """The cases of each condition that there is, in the order of the examples."""
  prompts = [example.prompts(text) for example in examples]
  partners = derange(len(examples))
  clips = {'audio': [example.clip for example in examples]}
  if partners is not None:
    clips['shuffled_audio'] = [examples[partner].clip for partner in partners]
  cases = {}
  for name in CONDITIONS:
    if name not in prompts[0] or (name == 'shuffled_audio' and partners is None):
      continue
    heard = clips.get(name, [None] * len(examples))
    cases[name] = [
      Case(prompt[name], clip, example.response)
      for prompt, clip, example in zip(prompts, heard, examples, strict=True)
    ]
  return cases
