"""Several tasks in one batch over one frozen backbone: each row with its own task's change and its own task's head."""
