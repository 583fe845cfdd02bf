"""How well a model, or another task, may serve a task, guessed from frozen features before anything is fine-tuned."""
