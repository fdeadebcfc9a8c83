"""The common base of every settings class: typed, frozen, and strict about unknown keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tagseg.errors import BadInput, nearest


class Settings(BaseModel):
    """Typed settings; an unknown key is an error that names the nearest one (see `parse`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse(kind: type[Settings], values: dict[str, Any], where: str) -> Any:
    """Build settings of `kind` from plain values.

    Raises:
        BadInput: naming the first key that is unknown or has an impossible value.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _keys_at(kind, first["loc"][:-1])
            hint = nearest(str(first["loc"][-1]), known) or f"; known: {', '.join(known)}."
            raise BadInput(f"{where}: there is no setting '{path}'{hint}") from error
        raise BadInput(f"{where}: setting '{path}' cannot be {first['input']!r}: {first['msg']}.") from error


def _keys_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        annotation = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        kind = annotation
    return list(kind.model_fields)
