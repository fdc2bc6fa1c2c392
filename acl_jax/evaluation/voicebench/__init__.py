# SPDX-License-Identifier: Apache-2.0
"""VoiceBench: its published folder, and its rules for reading an answer.

Source: Chen et al. 2024 (arXiv 2410.17196) and its evaluators, whose decisions the
rules here follow, quirks included, so that scores can be compared.
"""
