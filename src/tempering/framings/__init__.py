"""Framings: how the task is put to the model. One file a method, and beside them what several of them share."""
