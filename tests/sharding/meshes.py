# SPDX-License-Identifier: Apache-2.0
"""Meshes of the eight CPU devices that the tests have."""

# A tiny Llama has two key/value heads for `tensor` and a width of 24 for `fsdp`.
MESHES = {
  'data': dict(data=-1, fsdp=1, tensor=1),
  'fsdp': dict(data=1, fsdp=-1, tensor=1),
  'tensor': dict(data=-1, fsdp=1, tensor=2),
  'all': dict(data=2, fsdp=2, tensor=2),
}
