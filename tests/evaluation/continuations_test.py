# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax.evaluation.continuations import score_continuations
from acl_jax.evaluation.prompt_batches import PromptCase
from acl_jax.evaluation.scores import score_cases

CONTINUATIONS = [[(290,), (301, 277, 290), (5, 6)], [(301, 2)], [(277,), (290,)]]


def test_each_continuation_is_scored_as_if_alone(model, text):
  rng = np.random.default_rng(0)
  clips = [rng.normal(size=(length, 24)).astype(np.float32) for length in (7, 2)]
  cases = [
    PromptCase(text.prompt('the fox'), ()),
    PromptCase([(4, 300), 0, (301,), 1, (278, 5)], clips),
    PromptCase(text.audio_prompt(), clips[:1]),
  ]
  scored = dict(score_continuations(model, cases, CONTINUATIONS))
  for index, (case, group) in enumerate(zip(cases, CONTINUATIONS, strict=True)):
    alone = score_cases(model, [case._replace(response=each) for each in group])
    expected = [-score.nll.sum() for score in alone]
    assert scored[index] == pytest.approx(expected, rel=1e-5, abs=1e-5)
