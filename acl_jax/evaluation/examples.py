# SPDX-License-Identifier: Apache-2.0
"""Evaluated utterances, and the prompt of each under six conditions."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from acl_jax.evaluation.prompt_batches import PromptCase, row_length
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.layout import Segment
from data_pipeline import corpora
from data_pipeline.corpora.text_files import is_blank
from data_pipeline.corpora.utterance import AnyUtterance, BadUtterance, Utterance

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
  """An utterance, its encodings and transcripts, and its reference response.

  clip: Embeddings of the audio in the LLM's space.
  ctc_transcript: Greedy CTC decoding; None for all examples without CTC.
  cascade_transcript: The strong recogniser's; None for all examples without a cascade.
  response: Reference response, as token ids.
  has_speech: See `data_pipeline.voice_activity`.
  """

  utterance: Utterance
  clip: Float[np.ndarray, 'n e']
  ctc_transcript: str | None = None
  cascade_transcript: str | None = None
  response: tuple[int, ...] = ()
  has_speech: bool = True

  def prompts(self, text: TextFrontend) -> dict[str, list[Segment]]:
    """Return the prompt of each available condition."""
    transcripts = {
      'text': self.utterance.text,
      'cascade': self.cascade_transcript,
      'cascade_ctc': self.ctc_transcript,
      'no_prompt': '',
    }
    prompts = {
      name: text.prompt(transcript)
      for name, transcript in transcripts.items()
      if transcript is not None
    }
    audio_prompt = text.audio_prompt()
    return prompts | {'audio': audio_prompt, 'shuffled_audio': audio_prompt}


def read_manifest(
  manifest: str | Path, limit: int | None
) -> tuple[list[Utterance], list[BadUtterance]]:
  """Read at most `limit` entries of a manifest; return usable and unusable ones."""
  lines = corpora.open_corpus('manifest', manifest)
  return split_usable(itertools.islice(lines, limit))


def split_usable(
  lines: Iterable[AnyUtterance],
) -> tuple[list[Utterance], list[BadUtterance]]:
  """Return the utterances of the lines of a manifest, and those that are unusable."""
  usable, bad = [], []
  for item in lines:
    if isinstance(item, BadUtterance):
      bad.append(item)
    elif is_blank(item.text):
      bad.append(BadUtterance(item.id, 'text', 'text is empty'))
    elif item.response is not None and is_blank(item.response):
      bad.append(BadUtterance(item.id, 'response', 'response is empty'))
    else:
      usable.append(item)
  return usable, bad


def check_context_length(
  example: Example,
  text: TextFrontend,
  longest_clip: np.ndarray,
  context: int,
  max_new_tokens: int,
) -> None:
  """Raise ValueError if a prompt of the example leaves no space for the response.

  Args:
    example: May be without a reference response so far.
    text: Tokenizes the prompts.
    longest_clip: Of all examples, as shuffling may assign it to this example.
    context: Context length of the LLM, in tokens.
    max_new_tokens: Positions reserved for a generated response.
  """
  given_response = example.utterance.response
  given_length = 0
  if given_response is not None:
    given_length = len(text.tokenizer.encode(given_response)) + 1
  limit = context - max(max_new_tokens, given_length)
  for name, prompt in example.prompts(text).items():
    has_audio = any(isinstance(segment, int) for segment in prompt)
    length = row_length(PromptCase(prompt, [longest_clip] if has_audio else ()))
    if length > limit:
      raise ValueError(
        f'the `{name}` prompt is {length} tokens; the limit is {limit}: a context of '
        f'{context} minus the response. Shorten the utterance'
      )


def random_derangement(count: int, seed: int = 0) -> list[int] | None:
  """Return a random permutation without fixed points: one cycle over `range(count)`.

  None if `count` < 2, where none exists.
  """
  if count < 2:
    return None
  order = np.random.default_rng(seed).permutation(count)
  derangement = np.empty(count, int)
  derangement[order] = np.roll(order, 1)
  return derangement.tolist()


def make_prompt_cases(
  text: TextFrontend, examples: Sequence[Example]
) -> dict[str, list[PromptCase]]:
  """Return the cases of each available condition, in the order of the examples."""
  prompts = [example.prompts(text) for example in examples]
  derangement = random_derangement(len(examples))
  clips = {'audio': [(example.clip,) for example in examples]}
  if derangement is not None:
    clips['shuffled_audio'] = [(examples[index].clip,) for index in derangement]
  cases = {}
  for name in CONDITIONS:
    if name not in prompts[0] or (name == 'shuffled_audio' and derangement is None):
      continue
    condition_clips = clips.get(name, [()] * len(examples))
    cases[name] = [
      PromptCase(prompt[name], clips_of_case, example.response)
      for prompt, clips_of_case, example in zip(
        prompts, condition_clips, examples, strict=True
      )
    ]
  return cases
