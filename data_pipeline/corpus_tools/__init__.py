# SPDX-License-Identifier: Apache-2.0
"""Tools that make a corpus: sentences from WordNet, text to speech, joint manifests."""
