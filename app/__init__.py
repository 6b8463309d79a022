"""The web pages: what they compute lives in :mod:`ffn`."""
