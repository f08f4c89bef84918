"""A Celery application on disheap, as a user would write one.

`disheap demo` runs it as a program of its own. Nothing else imports it.
Start reading at `app`.
"""
