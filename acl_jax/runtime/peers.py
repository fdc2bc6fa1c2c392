# SPDX-License-Identifier: Apache-2.0
"""Recognises the errors by which JAX reports that a process of the job is gone."""

import re

# A status, and what collectives of CPUs and GPUs or the coordinator of all add to it.
_LOST = re.compile(
  r'[A-Z_]+: .*(Gloo .*failed|NCCL .*(failed|remote process)|[Cc]oordination service'
  r'|Connection (reset|closed) by peer|heartbeat timeout)',
  re.DOTALL,
)


def is_lost(error: BaseException) -> bool:
  """Return whether an error means that a process of the job has died or is cut off.

  This process cannot continue without it: the arrays of the step are spread over all.
  """
  # By the message alone: the type is that of JAX, ValueError or RuntimeError.
  return isinstance(error, (ValueError, RuntimeError)) and bool(_LOST.match(str(error)))
