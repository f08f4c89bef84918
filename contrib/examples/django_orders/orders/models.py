"""What the database keeps."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order. `state` is "new" or "packed". `task` is the id of the task that packs it."""

    item = models.CharField(max_length=100)
    state = models.CharField(max_length=10, default="new")
    task = models.CharField(max_length=50, default="")
