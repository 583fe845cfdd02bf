"""Verbalizers: what the tokens at a mask say about the classes. One file a method, and beside them what several of them share."""
