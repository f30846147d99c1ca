"""What every section of params.yaml is: frozen, without unknown keys, checked against its own."""

import re
from typing import Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A frozen section of params.yaml that forbids unknown keys.

    `WATCHING` are its keys that decide only how often a training is looked at. A training goes on
    after a change of them; all others are its recipe.
    """

    WATCHING: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    def recipe(self) -> dict[str, Any]:
        """The values that decide a result: a training goes on only where they are the same."""
        return self.model_dump(mode="json", exclude=set(self.WATCHING))

    @field_validator("*", mode="before")
    @classmethod
    def _number_not_bool(cls, value: Any, info: ValidationInfo) -> Any:
        expected = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and expected in (int, float):
            raise ValueError("expected a number, not true or false")
        return value


def divides(name: str) -> AfterValidator:
    """A check that the value divides that of the field `name`, which stands above it."""

    def check(value: int, info: ValidationInfo) -> int:
        whole = info.data.get(name, 0)
        if whole % value:
            raise ValueError(f"must divide {name}, which is {whole}")
        return value

    return AfterValidator(check)


def at_least(name: str) -> AfterValidator:
    """A check that the value is not below that of the field `name`, which stands above it."""

    def check(value: float, info: ValidationInfo) -> float:
        if value < info.data.get(name, value):
            raise ValueError(f"must not be below {name}, which is {info.data[name]}")
        return value

    return AfterValidator(check)


def matches(pattern: str, form: str) -> AfterValidator:
    """A check that the value has the form that `pattern` describes."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"expected {form}")
        return value

    return AfterValidator(check)
