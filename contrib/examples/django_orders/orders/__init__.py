"""Orders: a model, the tasks that work on it, and two pages.

Django finds it by its settings, and Celery finds its tasks. It knows nothing of the broker. Start reading at `tasks`.
"""
