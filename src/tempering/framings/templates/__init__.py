"""Templates: how a text becomes a prompt with a mask. Four ways to write one, one form inside, and its way to token ids."""
