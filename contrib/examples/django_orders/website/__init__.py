"""The Django project. Start reading at `settings`. The Celery application is loaded with it, so that tasks find it."""

from website.celery import app as celery_app

__all__ = ["celery_app"]
