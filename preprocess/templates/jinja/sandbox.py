"""Run a chat template as transformers does, with bounds that are the same on every machine.

The environment is that of transformers (`_compile_jinja_template`, src/transformers/utils/chat_template_utils.py). A
template is untrusted: it runs in a sandbox that limits its steps and the sizes of its values. The limits do not depend
on time, so every machine rejects the same records.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from preprocess.settings import one_line

# Unicode noncharacters, which texts must not contain; put around the text that a template marks with {% generation %}.
GENERATION_BEGINS, GENERATION_ENDS = "\ufdd0", "\ufdd1"
# Limit on loop iterations and calls in one rendering: per message, and the minimum.
_STEPS_PER_MESSAGE, _FEWEST_STEPS = 2_000, 50_000
# Limit on the characters of a value, and of the output, in addition to those of the messages.
_LARGEST = 1 << 20
_WIDE_FORMAT = re.compile(r"\d{6,}|\*")

Messages = Sequence[Mapping[str, str]]


class TemplateFault(Exception):
    """A template cannot be used or rendered; the message gives the reason."""


class SandboxedTemplate:
    """A compiled template. Not thread-safe."""

    def __init__(self, text: str, variables: Mapping[str, str], date: datetime.date) -> None:
        """Compile.

        Args:
            text: the Jinja source.
            variables: the variables it may use besides the messages.
            date: the date for `strftime_now`.

        Raises:
            TemplateFault: the text is not a valid template.
        """
        self._environment = _Environment()
        self._environment.globals["raise_exception"] = _raise_exception
        self._environment.globals["strftime_now"] = functools.partial(datetime.date.strftime, date)
        self._variables = dict(variables)
        self.marks_generation = False
        try:
            self._template = self._environment.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateFault(f"line {error.lineno}: {one_line(error.message)}") from None
        except (RecursionError, MemoryError, SyntaxError, ValueError, TypeError) as error:
            raise TemplateFault(f"it cannot be compiled ({type(error).__name__})") from None
        self.marks_generation = self._environment.marks_generation

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """Render a conversation to text.

        Raises:
            TemplateFault: the template rejects the messages, fails, or exceeds a limit.
        """
        size = sum(len(message["content"]) for message in messages)
        self._environment.allow(max(_FEWEST_STEPS, _STEPS_PER_MESSAGE * len(messages)), _LARGEST + 8 * size)
        parts, length = [], 0
        try:
            for part in self._template.generate(
                **self._variables,
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            ):
                length += len(part)
                if length > self._environment.largest:
                    raise TemplateFault(f"it writes more than {self._environment.largest:,} characters")
                parts.append(part)
        except TemplateFault:
            raise
        except RecursionError:
            raise TemplateFault("it calls itself too deeply") from None
        except Exception as error:  # a template may raise any exception
            raise TemplateFault(one_line(error).rstrip(".") or type(error).__name__) from None
        return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    """A Jinja sandbox that counts steps and limits the sizes of values."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self._steps_left = self.largest = 0
        self.marks_generation = False
        self.filters = {name: self._bounded(filter_) for name, filter_ in self.filters.items()}
        self.filters |= {"tojson": self._bounded(_tojson), _COUNTED: self._counted, _JOINED: self._joined}

    def allow(self, steps: int, largest: int) -> None:
        """Begin a rendering with these limits on steps and on the length of values."""
        self._steps_left, self.largest = steps, largest

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _BoundsTransformer().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        assert isinstance(tree, nodes.Template)
        return tree

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, method or macro."""
        self._step()
        if isinstance(getattr(called, "__self__", None), str) and called.__name__.startswith("format"):
            self._check_format(called.__self__)
        self._check_arguments(args, kwargs)
        return self._checked(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Evaluate a binary operator, which may also concatenate, repeat or format strings and lists."""
        if operator == "**" and not (_is_number(left, 1 << 16) and _is_number(right, 64)):
            raise TemplateFault("it raises to a large power")
        if operator == "*":
            for some, times in ((left, right), (right, left)):
                if isinstance(some, (str, list, tuple)) and isinstance(times, int):
                    self._check_size(len(some) * times)
        if operator == "%" and isinstance(left, str):
            self._check_format(left)
        return self._checked(super().call_binop(context, operator, left, right))

    def _step(self) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise TemplateFault("it takes too many steps; it may contain an endless loop")

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _joined(self, values: Sequence[Any]) -> str:
        texts = [str(value) for value in values]
        self._check_size(sum(map(len, texts)))
        return "".join(texts)

    def _bounded(self, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter_)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._step()
            self._check_arguments(args[1:], kwargs)
            return self._checked(filter_(*args, **kwargs))

        return bounded

    def _checked(self, value: Any) -> Any:
        if isinstance(value, (str, list, tuple)):
            self._check_size(len(value))
        elif isinstance(value, int) and value.bit_length() > 4096:
            raise TemplateFault("it calculates with very large numbers")
        return value

    def _check_size(self, size: int) -> None:
        if size > self.largest:
            raise TemplateFault(f"it makes a value of more than {self.largest:,} characters or items")

    def _check_arguments(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int):
                self._check_size(abs(value))

    def _check_format(self, text: str) -> None:
        if _WIDE_FORMAT.search(text):
            raise TemplateFault("it formats text to a width that is too large or variable")


_COUNTED, _JOINED = "_counted", "_joined"


class _BoundsTransformer(NodeTransformer):
    """Inserts filters that count loop iterations and limit the size of concatenated strings."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _COUNTED, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        values = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(values, _JOINED, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks supervised text."""

    tags = {"generation"}  # noqa: RUF012, jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        assert isinstance(self.environment, _Environment)
        self.environment.marks_generation = True
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return GENERATION_BEGINS + caller() + GENERATION_ENDS


def _raise_exception(message: object) -> None:
    raise TemplateFault(f"it reports: {one_line(message)}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _is_number(value: Any, largest: int) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= largest)
