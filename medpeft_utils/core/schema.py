"""Files that others have written, none taken at its word: a pydantic model for each kind, one message for faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from medpeft_utils.core.errors import BadInput, short

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar('Model', bound=BaseModel)

MOST_TOLD = 8


def checked(model: type[Model], content: Any, what: str) -> Model:
    """The content as the model has it. Raises BadInput that names the file (`what`), the place and the value."""
    from pydantic import ValidationError

    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise BadInput(f'{what}: ' + '; '.join(faults_of(error))) from None


def faults_of(error: ValidationError) -> list[str]:
    """Each fault in words: place, what is wrong, and the value; of many the first few."""
    faults = error.errors(include_url=False, include_context=False)
    lines = []
    for fault in faults[:MOST_TOLD]:
        place = '.'.join(str(part) for part in fault['loc'])
        value = '' if fault['type'] == 'missing' else f' (it is {short(fault["input"])})'
        lines.append(f'{place or "the whole"}: {fault["msg"][:1].lower()}{fault["msg"][1:]}{value}')
    return lines + ([f'and {len(faults) - MOST_TOLD} more'] if len(faults) > MOST_TOLD else [])
