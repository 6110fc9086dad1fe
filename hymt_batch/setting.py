"""The class of a setting: what a change of it may change. Each field of a settings dataclass declares it in its type:

    max_tokens: Identity[int] = 2048

Type checkers, OmegaConf and `get_type_hints` see the plain type, here int. Knows no setting and no stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class SettingClass(Enum):
    """What a setting may change."""

    identity = "identity"
    output = "output"
    environment = "environment"
    operation = "operation"


Identity = Annotated[T, SettingClass.identity]
"""Changes what is decoded or which rows there are: another value is another job."""

Output = Annotated[T, SettingClass.output]
"""Shapes files and flags only, never whether a row is sent to the model."""

Environment = Annotated[T, SettingClass.environment]
"""Recorded in each part: may change a text, but only by rounding. The licence of the weights is recorded there too."""

Operation = Annotated[T, SettingClass.operation]
"""Changes nothing in the result: may change between two runs of a job."""


@lru_cache
def classes_of(config_class: type) -> Mapping[str, SettingClass]:
    """Return the class of every setting below a settings dataclass, by its dotted key, in field order.

    Raises:
        TypeError: A field does not declare its class.
    """
    classes: dict[str, SettingClass] = {}
    hints = get_type_hints(config_class, include_extras=True)
    for field in fields(config_class):
        hint = hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            classes |= {f"{field.name}.{key}": value for key, value in classes_of(hint).items()}
            continue
        declared = [arg for arg in get_args(hint) if isinstance(arg, SettingClass)]
        if get_origin(hint) is not Annotated or len(declared) != 1:
            raise TypeError(
                f"{config_class.__name__}.{field.name} does not declare its class. "
                "Write its type as Identity[...], Output[...], Environment[...] or Operation[...]."
            )
        classes[field.name] = declared[0]
    return classes


def values_of(config: Any, setting_class: SettingClass) -> dict[str, Any]:
    """Return the settings of one class by their dotted keys; a choice is returned as its name.

    Args:
        config: An instance of a settings dataclass, such as a job.
        setting_class: The class.
    """
    values: dict[str, Any] = {}
    for key, declared in classes_of(config.__class__).items():
        if declared is setting_class:
            value = config
            for name in key.split("."):
                value = getattr(value, name)
            values[key] = value.value if isinstance(value, Enum) else value
    return values
