# SPDX-License-Identifier: Apache-2.0
"""The table of tasks."""

from acl_jax.evaluation.tasks.conversation import Conversation
from acl_jax.evaluation.tasks.spoken_qa import SpokenQA
from acl_jax.evaluation.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (SpokenQA(), Conversation())}

ON_REQUEST: frozenset[str] = frozenset()  # tasks that run only if --suite names them
