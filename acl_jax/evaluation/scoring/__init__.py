# SPDX-License-Identifier: Apache-2.0
"""Scores of answers, one file per family of metrics."""
