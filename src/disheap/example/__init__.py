"""A Celery application on disheap, as a user would write one. `disheap demo` runs it; nothing else imports it."""
