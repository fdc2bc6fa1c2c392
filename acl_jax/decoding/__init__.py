# SPDX-License-Identifier: Apache-2.0
"""The language model at work: generation with a key/value cache, stored responses."""
