"""Orders: a model, the tasks that work on it, and two pages. Start reading at `tasks`."""
