# SPDX-License-Identifier: Apache-2.0
"""Losses, optimizer, steps, checkpoints and metrics."""
