"""Tasks as text that a model writes: source and target strings, their scores, and decoding. What `text_to_text` is made of."""
