"""A field of a settings dataclass declares its class in its type."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, get_type_hints

import pytest

from hymt_batch.setting import Environment, Identity, Operation, Output, SettingClass, classes_of, values_of


class Shade(Enum):
    dark = "dark"


@dataclass(kw_only=True, slots=True)
class Stage:
    rows: Environment[Any] = "auto"
    shade: Output[Shade | None] = Shade.dark


@dataclass(kw_only=True, slots=True)
class Job:
    name: Operation[str]
    seed: Identity[int] = 0
    stage: Stage = field(default_factory=Stage)


def test_classes_are_found_by_dotted_key_in_field_order() -> None:
    assert list(classes_of(Job).items()) == [
        ("name", SettingClass.operation),
        ("seed", SettingClass.identity),
        ("stage.rows", SettingClass.environment),
        ("stage.shade", SettingClass.output),
    ]


def test_values_of_a_class_are_plain() -> None:
    job = Job(name="a", stage=Stage(rows=3))
    assert values_of(job, SettingClass.output) == {"stage.shade": "dark"}
    assert values_of(job, SettingClass.environment) == {"stage.rows": 3}


def test_the_type_of_a_field_is_the_plain_one() -> None:
    assert get_type_hints(Stage) == {"rows": Any, "shade": Shade | None}


def test_a_field_without_a_class_is_refused() -> None:
    @dataclass
    class Plain:
        seed: int = 0

    @dataclass
    class Other:
        seed: Annotated[int, "a note"] = 0

    @dataclass
    class Inner:
        seed: Identity[int] | None = None  # the class is that of a part of the type

    for config in (Plain, Other, Inner):
        with pytest.raises(TypeError, match=f"{config.__name__}.seed does not declare its class"):
            classes_of(config)
