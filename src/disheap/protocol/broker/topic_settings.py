"""Changes of the settings of a topic: what they make of the settings, and how two settings differ.

Owns no check of what the settings mean together: the machine does that. The CLI shows with it what a change would do.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from disheap.errors import InvalidArgument
from disheap.protocol.broker.commands import TopicSettings

Setting = bool | int | str
FIXED = {
    "mode": "the messages that wait are in its order. Create another topic and move them",
    "exclusive": "it decides to whom the topic belongs. Create another topic",
}
"""Settings that never change, and why."""


def changed_settings(settings: TopicSettings, changes: Mapping[str, Setting]) -> TopicSettings:
    """The settings with these changes. Raises `InvalidArgument` for a name that is no setting, for a value that does
    not fit, and for a setting that never changes."""
    fields = TopicSettings.__struct_fields__
    for name, value in changes.items():
        if name not in fields:
            raise InvalidArgument(f"a topic has no setting {name!a}. There are {', '.join(fields)}")
        if name in FIXED and value != getattr(settings, name):
            raise InvalidArgument(f"{name} of a topic never changes: {FIXED[name]}")
        _changed(settings, {name: value})
    return _changed(settings, changes)


def _changed(settings: TopicSettings, changes: Mapping[str, Setting]) -> TopicSettings:
    """Raises `InvalidArgument`. Every replica refuses the same change in the same words, so the error has none of the
    decoder's."""
    values = [changes.get(name, getattr(settings, name)) for name in TopicSettings.__struct_fields__]
    try:
        return msgspec.convert(values, TopicSettings)
    except msgspec.ValidationError:
        named = ", ".join(f"{name} = {value!a}" for name, value in changes.items())
        raise InvalidArgument(f"{named} does not fit: the type is another one, or the value is out of bounds") from None


def difference(old: TopicSettings, new: TopicSettings) -> dict[str, tuple[Setting, Setting]]:
    """(old value, new value) of each setting that differs, by its name."""
    return {
        name: (getattr(old, name), getattr(new, name))
        for name in TopicSettings.__struct_fields__
        if getattr(old, name) != getattr(new, name)
    }
