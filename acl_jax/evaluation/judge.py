# SPDX-License-Identifier: Apache-2.0
"""A chat model that scores answers, behind any OpenAI-compatible endpoint.

Every question is asked three times. Replies are cached, so an interrupted run asks
nothing twice. What cannot be had stays unscored: `JudgeError`, in one sentence.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.judge_http import Failure, Post, post_json

VOTES = 3
TEMPERATURE, TOP_P = 0.5, 0.95
MAX_TOKENS = 512  # of a reply: models that reason write more than the score
ATTEMPTS = 5  # of a vote
MAX_FAILURES = 3  # questions in succession; then the judge is not asked again
MAX_TEXT = 20_000  # characters of an answer that the judge reads
KEY_VARIABLE = 'OPENAI_API_KEY'

SYSTEM = 'You grade the answers of voice assistants fairly and consistently.'
RATING = """\
A user said something to a voice assistant, and the assistant answered. Below are \
transcripts of both. Grade the answer from 1 to 5:
1: mostly irrelevant or wrong, or it does not address the request.
2: somewhat relevant, but inaccurate, incomplete or full of unrelated material.
3: relevant and mostly accurate, but wordy or with needless detail.
4: relevant, accurate and concise: a clear answer without padding.
5: exceptionally relevant, accurate and to the point: exactly what was asked for.

### User
{prompt}

### Answer
{response}

Reply with the grade alone, a single number."""
AGREEMENT = """\
### Question
{prompt}

### Reference answer
{reference}

### Answer to check
{response}

Given the question and the reference answer, is the answer to check correct?
Reply with Yes or No alone."""

_GRADE = re.compile(
  r'(?:\W*(?:the )?(?:score|grade|rating)(?: is)?)?[^\w-]{0,6}([1-5](?:\.\d+)?)'
  r'(?![\d.]*\d)',
  re.IGNORECASE,
)


class JudgeError(ValueError):
  """A question that the judge did not answer; the case stays unscored."""


class Judge:
  """Scores answers by the mean grade, or by the majority, of `VOTES` replies.

  ValueError if the URL or the model is not usable.

  url: of the API, such as `https://api.openai.com/v1`. model: its name there. cache: of
  the replies. The key is read from the variable `OPENAI_API_KEY`; without it no key is
  sent. post, sleep: replaced in tests.
  """

  def __init__(
    self,
    url: str,
    model: str,
    cache: ResultCache,
    post: Post = post_json,
    sleep: Callable[[float], None] = time.sleep,
  ):
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
      raise ValueError(
        f'--judge_url is {url!r}; it must begin with http:// or https://'
      )
    if not model:
      raise ValueError('--judge_model is empty; name a model of --judge_url')
    self.model = model
    self._url = f'{url.rstrip("/")}/chat/completions'
    self._cache, self._post, self._sleep = cache, post, sleep
    self._failures = 0  # in succession
    self._several = True  # replies per request

  def grade(self, prompt: str, response: str) -> float:
    """Return the mean grade from 1 to 5; JudgeError without three usable replies."""
    votes = self._ask(_fill(RATING, prompt=prompt, response=response), parse_grade)
    return sum(votes) / len(votes)

  def agrees(self, prompt: str, reference: str, response: str) -> bool:
    """Return whether most replies call the response correct; JudgeError as `grade`."""
    texts = {'prompt': prompt, 'reference': reference, 'response': response}
    votes = self._ask(_fill(AGREEMENT, **texts), parse_agreement)
    return sum(votes) > len(votes) / 2

  def _ask(self, question: str, parse: Callable[[str], float | None]) -> list[float]:
    identity = json.dumps([self._url, self.model, SYSTEM, question])
    key = hashlib.sha256(identity.encode()).hexdigest()
    votes = [float(vote) for vote in self._cache[key]] if key in self._cache else []
    while len(votes) < VOTES:
      if self._failures >= MAX_FAILURES:
        raise JudgeError(
          f'{self._url}: not asked, as {MAX_FAILURES} questions in succession failed'
        )
      try:
        votes += self._vote(question, parse, VOTES - len(votes))
      except JudgeError:
        self._failures += 1
        raise
      self._failures = 0
      self._cache[key] = votes
    return votes

  def _vote(
    self, question: str, parse: Callable[[str], float | None], count: int
  ) -> list[float]:
    """Return 1 to `count` votes; asks again, later and later, while that may help."""
    problem, wait = '', 0.0
    for attempt in range(ATTEMPTS):
      self._sleep(wait)
      wait = float(2**attempt)
      body = self._body(question, count if self._several else 1)
      try:
        texts = read_replies(self._post(self._url, body, _headers()))
      except Failure as failure:
        problem = str(failure)
        if failure.status == 400 and body['n'] > 1:
          self._several, wait = False, 0.0  # some servers reply once per request
          continue
        if not failure.retry:
          break
        wait = max(wait, failure.wait)
        continue
      votes = [vote for text in texts if (vote := parse(text)) is not None]
      if votes:
        return votes[:count]
      problem = f'replied {texts[0][:60]!r}, which is not a score'
    raise JudgeError(f'{self._url}: the judge {self.model} {problem}')

  def _body(self, question: str, count: int) -> dict[str, Any]:
    messages = [
      {'role': 'system', 'content': SYSTEM},
      {'role': 'user', 'content': question},
    ]
    return {
      'model': self.model,
      'messages': messages,
      'n': count,
      'temperature': TEMPERATURE,
      'top_p': TOP_P,
      'max_tokens': MAX_TOKENS,
    }


def parse_grade(text: str) -> float | None:
  """Return the grade that a reply begins with, as in `4`, `[[4]]` or `Score: 4`."""
  match = _GRADE.match(_without_thoughts(text))
  grade = float(match[1]) if match else 0.0
  return grade if 1 <= grade <= 5 else None


def parse_agreement(text: str) -> float | None:
  """Return 1 for a reply that begins with yes, 0 for no, None for another."""
  words = re.findall('[a-z]+', _without_thoughts(text).lower()[:100])
  return {'yes': 1.0, 'no': 0.0}.get(words[0]) if words else None


def read_replies(reply: Any) -> list[str]:
  """Return the texts of a chat completion; Failure if there is none."""
  try:
    texts = [choice['message']['content'] for choice in reply['choices']]
  except (TypeError, LookupError):
    texts = []
  if not texts or not all(isinstance(text, str) for text in texts):
    raise Failure('returned JSON without choices[0].message.content', retry=True)
  return texts


def _without_thoughts(text: str) -> str:
  return text.rpartition('</think>')[2].strip()


def _fill(template: str, **texts: str) -> str:
  """Fill a template once: braces within a text stay as they are."""
  shortened = {name: text[:MAX_TEXT] for name, text in texts.items()}
  return template.format(**shortened)


def _headers() -> Mapping[str, str]:
  key = os.environ.get(KEY_VARIABLE, '').strip()
  return {'Authorization': f'Bearer {key}'} if key else {}
