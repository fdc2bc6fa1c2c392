# SPDX-License-Identifier: Apache-2.0
"""The table of tasks."""

from acl_jax.evaluation.judge import Judge
from acl_jax.evaluation.tasks import voicebench
from acl_jax.evaluation.tasks.context import Context
from acl_jax.evaluation.tasks.conversation import Conversation
from acl_jax.evaluation.tasks.instructions import Instructions
from acl_jax.evaluation.tasks.refusals import Refusals
from acl_jax.evaluation.tasks.robustness import Robustness
from acl_jax.evaluation.tasks.spoken_qa import SpokenQA
from acl_jax.evaluation.tasks.summarisation import Summarisation
from acl_jax.evaluation.tasks.task import Task
from acl_jax.evaluation.tasks.translation import Translation

_TASKS: tuple[Task, ...] = (
  SpokenQA(),
  Conversation(),
  Instructions(),
  Translation(),
  Summarisation(),
  Refusals(),
  Context(),
  Robustness(SpokenQA()),
  Robustness(Conversation()),
  Robustness(Instructions()),
  Robustness(Translation()),
)

# Tasks that run only if --suite names them.
ON_REQUEST = frozenset(task.name for task in _TASKS if isinstance(task, Robustness))


def make_tasks(judge: Judge | None = None) -> dict[str, Task]:
  """Return all tasks by name; without a judge, those of VoiceBench that need none."""
  return {task.name: task for task in _TASKS} | voicebench.make_tasks(judge)
