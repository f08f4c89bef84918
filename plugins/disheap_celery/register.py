"""Adds the task that finishes chords to every Celery application; that is all.

A worker needs the task before it loads its result backend. Celery has no entry point for tasks. It loads kombu, and
kombu loads the entry points of the group `kombu.serializers` when it is imported. So this module is in that group for
its side effect. kombu wraps the load in no try, so nothing here may raise.

At that time Celery is half imported, or not at all. So a finder waits for it, which finds no module: Python asks it
when another module is imported. As soon as Celery can take the task, the finder goes.

What the group is for comes along as a serializer named `disheap-chords`, which refuses with a clear text.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

STATE = "celery._state"


class AfterCelery:
    """Python asks it for each module that is imported. It has none."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Registers the task if Celery's state is imported as a whole."""
        if name.startswith("celery.") and register() and self in sys.meta_path:
            sys.meta_path.remove(self)


def register() -> bool:
    """Has Celery call `add_task` for each application that it finalizes. False while Celery is not imported."""
    connect = getattr(sys.modules.get(STATE), "connect_on_app_finalize", None)
    if connect is None:
        return False
    connect(_add_task)
    return True


def _add_task(app: Any) -> None:
    """Celery finalizes an application. Those with another result backend have no need of the task."""
    if str(app.conf.result_backend or "").startswith(("disheap://", "disheaps://")):
        from disheap_celery.chords import add_task

        add_task(app)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    from kombu.exceptions import SerializerNotInstalled

    raise SerializerNotInstalled("'disheap-chords' is no serializer: leave task_serializer and result_serializer alone")


entry = (_refuse, _refuse, "application/x-disheap-no-chord-serializer", "binary")

if not register():
    sys.meta_path.insert(0, AfterCelery())
