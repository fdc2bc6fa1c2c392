# SPDX-License-Identifier: Apache-2.0
"""Processes, files, progress bars and exit codes; imports nothing else from acl_jax."""
