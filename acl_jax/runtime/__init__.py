# SPDX-License-Identifier: Apache-2.0
"""Processes, files, progress and exit codes; imports nothing else of acl_jax."""
