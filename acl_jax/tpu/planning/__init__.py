# SPDX-License-Identifier: Apache-2.0
"""Compile a step ahead of time for TPUs: memory, collectives, speed and cost."""
