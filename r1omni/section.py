"""The base class of params.yaml's sections, its kinds of numbers, and checks between keys."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Workers = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A frozen section of params.yaml that forbids unknown keys.

    `NOT_RECIPE`: keys that decide only how often a training is evaluated. A training continues
    after a change of them. All other keys are its recipe.
    """

    NOT_RECIPE: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    def recipe(self) -> dict[str, Any]:
        """The values that decide a result; a training continues only if they are unchanged."""
        return self.model_dump(mode="json", exclude=set(self.NOT_RECIPE))

    @field_validator("*", mode="before")
    @classmethod
    def _reject_bool_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        expected = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and expected in (int, float):
            raise ValueError("expected a number, not true or false")
        return value


def divides(name: str) -> AfterValidator:
    """A check that the value divides the field `name`, which is defined before it."""

    def check(value: int, info: ValidationInfo) -> int:
        whole = info.data.get(name, 0)
        if whole % value:
            raise ValueError(f"must divide {name}, which is {whole}")
        return value

    return AfterValidator(check)


def at_least(name: str) -> AfterValidator:
    """A check that the value is not below the field `name`, which is defined before it."""

    def check(value: float, info: ValidationInfo) -> float:
        if value < info.data.get(name, value):
            raise ValueError(f"must not be below {name}, which is {info.data[name]}")
        return value

    return AfterValidator(check)


def matches(pattern: str, form: str) -> AfterValidator:
    """A check that the value matches `pattern`; the error says that `form` was expected."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"expected {form}")
        return value

    return AfterValidator(check)
