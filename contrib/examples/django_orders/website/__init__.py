"""The Django project: settings, addresses, and the Celery application.

`manage.py` and `celery -A website` load it. It knows no orders. The application is loaded with it, so that tasks find
it. Start reading at `settings`.
"""

from website.celery import app as celery_app

__all__ = ["celery_app"]
