"""Prompts before anything is trained: shown, scored, and searched for."""
