# SPDX-License-Identifier: Apache-2.0
"""Text in and out of the language model: tokenizers and chat templates."""
