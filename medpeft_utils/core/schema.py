"""Files that others have written, none taken at its word: their shape, by a pydantic model for each kind, and YAML."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from medpeft_utils.core.errors import BadInput, short

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar('Model', bound=BaseModel)

MOST_TOLD = 8  # faults in a message
LARGEST_FILE = 1_000_000  # bytes
MOST_VALUES = 200_000  # with every alias written out
DEEPEST = 50
PLAIN = {f'tag:yaml.org,2002:{name}' for name in ('str', 'int', 'float', 'bool', 'null', 'seq', 'map', 'merge')}


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


class _Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """Numbers as in YAML 1.2 (1e-3 is one; 1:30, 010 and dates are text); a key that is there twice is a fault."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((':timestamp', ':int', ':float'))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag.endswith(':merge'):
                continue
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(':str'):
                raise yaml.constructor.ConstructorError(None, None, 'a key that is not text', key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f'the key {key.value!r} twice', key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for kind, written in (
    ('int', r'^[-+]?(0|[1-9]\d*)$'),
    ('float', r'^([-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$'),
):
    _Loader.add_implicit_resolver(f'tag:yaml.org,2002:{kind}', re.compile(written), list('-+.0123456789'))


def parse_yaml(text: bytes | str, what: str) -> Any:
    """The content of YAML: dictionaries with text as keys, lists, text, numbers, truth values.

    Args:
        text: UTF-8 or UTF-16, with or without a byte order mark.
        what: names it in messages.
    Raises:
        BadInput: it is not YAML, or has dates by tag, binary data, a key twice, values beyond any study.
    """
    if len(text) > LARGEST_FILE:
        raise BadInput(f'{what} has {len(text):,} bytes; more than {LARGEST_FILE:,} are not read')
    try:
        depth = 0  # before anything is built: the fast parser ends the process at a depth of a hundred thousand
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise BadInput(f'{what}: YAML nested more than {DEEPEST} deep')
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}, 0) > MOST_VALUES:
                raise BadInput(f'{what} stands for more than {MOST_VALUES:,} values, with its aliases written out')
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise BadInput(f'{what} is nested too deeply') from None
    except BadInput:
        raise
    except (yaml.YAMLError, ValueError, LookupError, TypeError, ArithmeticError) as error:  # as of `!!bool maybe`
        raise BadInput(f'{what} is not YAML: {str(error)[:500]}') from error


def _size(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Values below a node, an alias counted as often as it is used."""
    if depth > DEEPEST:
        said = f'nested more than {DEEPEST} deep, or an alias within what it stands for'
        raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
    if node.tag not in PLAIN:
        raise yaml.constructor.ConstructorError(None, None, f'{node.tag} is not a plain value', node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        node.value.encode()  # half a character cannot be written again
        return 1
    if id(node) not in sizes:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_size(part, sizes, depth + 1) for part in parts)
    return sizes[id(node)]
