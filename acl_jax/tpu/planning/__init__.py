# SPDX-License-Identifier: Apache-2.0
"""Ahead-of-time compilation of a step for TPUs: memory, collectives, speed, cost."""
