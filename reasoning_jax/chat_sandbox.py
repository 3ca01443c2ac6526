"""Jinja templates of strangers, rendered in a sandbox and within limits."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping

from jinja2 import environment, ext, nodes, parser, runtime, sandbox, visitor
from jinja2.exceptions import SecurityError, TemplateError, TemplateRuntimeError

# What a rendering may cost: a character that an expression reads or makes is 1; a pass through a
# loop and a call of a function are STEP and the size of the template each. A prompt of a million
# characters costs a few millions, and what costs the whole budget takes about a second.
BUDGET = 50_000_000
STEP = 500
ITEM = 200  # of a list that is compared, or written as JSON
LARGEST_NUMBER = 2**63
LARGEST_INDENT = 8
# Llama's own templates write the date of today, and this one where there is no clock. A prompt must
# not depend on the day of the run.
TODAY = datetime.datetime(2024, 7, 26)

FILTERS = """abs capitalize count d default dictsort first float int items last length list lower
    map max min reject rejectattr reverse round safe select selectattr sort string sum title trim
    unique upper""".split()
# Methods of text whose result may be much longer than what they are given.
ENLARGING = "center encode expandtabs format format_map ljust rjust translate zfill".split()


class Sandbox(sandbox.ImmutableSandboxedEnvironment):
    """The environment that Hugging Face's templates expect, with a budget for each rendering.

    Globals: raise_exception, strftime_now (always the same day), namespace, range, dict.
    """

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self._written,
            extensions=[_Generation, ext.loopcontrols],
        )
        self._left = BUDGET
        self._step = STEP
        self.filters = {name: self._charged(self.filters[name]) for name in FILTERS}
        self.filters |= {
            "join": self._join,
            "replace": self._replace,
            "string": self._text,
            "tojson": self._tojson,
            "_counted": self._counted,
            "_weighed": self._weighed,
        }
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = TODAY.strftime

    def render(self, program: environment.Template, variables: Mapping[str, object]) -> str:
        """The text of a template of this sandbox; raises whatever goes wrong."""
        self._left = BUDGET
        return program.render(variables)

    def _spend(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise SecurityError("it takes too long, or makes too much text")

    # ---- loops and calls -------------------------------------------------------------------------

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise SecurityError("it has a recursive loop")
        self._step = STEP + sum(1 for _ in tree.find_all(nodes.Node))
        return _Rewrite(self).visit(tree)

    def _counted(self, items: Iterable) -> Iterator:
        for item in items:
            self._spend(self._step)
            yield item

    def _weighed(self, value: object) -> object:
        """The value, at the cost of all that is in it."""
        self._spend(_length([value]))
        items = list(value.values()) if isinstance(value, Mapping) else value
        if isinstance(items, list | tuple):
            for item in items:
                self._spend(ITEM)
                self._weighed(item)
        return value

    def call(self, context: runtime.Context, called: Callable, /, *args, **kwargs):  # type: ignore
        self._spend(self._step + _length(args))
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str):
            self._spend(len(owner))
            name = called.__name__
            if name in ("join", "replace"):
                own = {key: value for key, value in kwargs.items() if not key.startswith("_")}
                return getattr(self, f"_{name}_text")(owner, *args, **own)
        return super().call(context, called, *args, **kwargs)

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        if isinstance(obj, str) and attr in ENLARGING:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: object) -> None:
        """None: jinja would wrap this method of text, which may enlarge, and so let it through."""

    def unsafe_undefined(self, obj: object, attribute: str) -> runtime.Undefined:
        """Raises at once: an undefined value that is only written would go unnoticed."""
        raise SecurityError(f"access to {attribute!r} of a {type(obj).__name__} is unsafe")

    # ---- what makes text -------------------------------------------------------------------------

    def call_binop(self, context: runtime.Context, operator: str, left, right):  # type: ignore
        if operator == "+":
            self._spend(_length([left, right]))
            return left + right
        for operand in (left, right):
            if not isinstance(operand, int | float) or abs(operand) > LARGEST_NUMBER:
                raise SecurityError(f"the operator {operator} is for small numbers")
        if operator == "**" and abs(right) > 63:
            raise SecurityError("the operator ** is for small numbers")
        return super().call_binop(context, operator, left, right)

    def _written(self, value: object) -> object:
        """What an expression writes; lists and objects have no text of their own."""
        self._spend(_length([value]))
        if value is None or isinstance(value, str | int | float | runtime.Undefined):
            return value
        raise TemplateRuntimeError(f"it writes a {type(value).__name__}, which is no text")

    def _text(self, value: object) -> str:
        return str(self._written(value))

    def _charged(self, function: Callable) -> Callable:
        """A filter that costs what it is given."""

        @functools.wraps(function)
        def charged(*args, **kwargs):  # type: ignore
            self._spend(self._step + _length(args))
            return function(*args, **kwargs)

        return charged

    def _join(self, items: Iterable, d: str = "") -> str:
        return self._join_text(d, items)

    def _join_text(self, separator: str, items: Iterable) -> str:
        texts = [self._text(item) for item in self._counted(items)]
        self._spend(len(separator) * len(texts))
        return separator.join(texts)

    def _replace(self, text: str, old: str, new: str, count: int = -1) -> str:
        return self._replace_text(self._text(text), old, new, count)

    def _replace_text(self, text: str, old: str, new: str, count: int = -1) -> str:
        self._spend(self._step + len(text) + text.count(old) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def _tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None and not 0 <= indent <= LARGEST_INDENT:
            raise SecurityError(f"tojson indents by {LARGEST_INDENT} at most")
        self._weighed(value)
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )


def _length(values: Iterable[object]) -> int:
    sized = (str, list, tuple, dict, range)
    return sum(len(value) for value in values if isinstance(value, sized))


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


class _Rewrite(visitor.NodeTransformer):
    """Gives loops and comparisons their cost, and makes ``a ~ b`` an addition, which has one."""

    def __init__(self, environment: Sandbox):
        self.environment = environment

    def _filter(self, node: nodes.Expr, name: str) -> nodes.Filter:
        return nodes.Filter(
            node, name, [], [], None, None, lineno=node.lineno, environment=self.environment
        )

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = self._filter(node.iter, "_counted")
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        for operand in node.ops:
            operand.expr = self._filter(operand.expr, "_weighed")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        first, *rest = [self._filter(part, "string") for part in node.nodes]
        added: nodes.Expr = first
        for part in rest:
            added = nodes.Add(added, part, lineno=node.lineno, environment=self.environment)
        return added


class _Generation(ext.Extension):
    """``{% generation %}``, which marks the assistant's words for other libraries."""

    tags = {"generation"}

    def parse(self, parser: parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
