"""Ways to call something: each calls `then` once or more, with frames of its own kind between, and returns what it does."""

import contextlib
import contextvars
import ctypes
import functools
import sys

import pytest


class Things:
    def method(self, then):
        return then()

    @classmethod
    def of_class(cls, then):
        return then()

    @staticmethod
    def static(then):
        return then()

    @property
    def read(self):
        return self.then()

    def __getattr__(self, name):
        return self.__dict__["got"]()

    def __call__(self, then):
        return then()


class Made:
    def __init__(self, then):
        self.answer = then()


class Meta(type):
    def __call__(cls, then):
        return then()


def by_nested(then):
    kept = [then]

    def inner():
        def innermost():
            return kept[0]()

        return innermost()

    return inner()


def by_property(then):
    things = Things()
    things.then = then
    return things.read


def by_attribute(then):
    things = Things()
    things.got = then
    return things.what_is_not_there


def by_class_body(then):
    class Body:
        answer = then()

    return Body.answer


def by_generator(then):
    def generate():
        before = 1
        yield before
        yield then()

    return list(generate())[1]


def by_yield_from(then):
    def inner():
        yield then()

    def outer():
        yield from inner()

    return next(outer())


def run(coroutine):
    """Run a coroutine that waits for nothing, and return its answer."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


def by_coroutine(then):
    async def inner():
        return then()

    async def outer():
        return await inner()

    return run(outer())


def by_async_generator(then):
    async def generate():
        yield then()

    async def outer():
        return [answer async for answer in generate()][0]  # noqa: RUF015 - a list is meant

    return run(outer())


def by_exec(then):
    names = {"then": then}
    exec(compile("\n\nanswer = then()", "<made here>", "exec"), names)  # noqa: S102 - it is what is tested
    return names["answer"]


def by_finalizer(then):
    answers = []

    class Ends:
        def __del__(self):
            answers.append(then())

    Ends()
    return answers[0]


def by_local_that_ends(then):
    answers = []

    class Ends:
        def __del__(self):
            answers.append(then())

    def hold():
        local = Ends()  # ends while this frame is taken down
        return local is not None

    hold()
    return answers[0]


def by_context(then):
    @contextlib.contextmanager
    def manage():
        yield then()

    with manage() as answer:
        return answer


def by_ctypes(then):
    answers = []
    call_back = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: answers.append(then()) or 0)
    call_back()
    return answers[0]


def by_traced(then, watch=sys.settrace, before=sys.gettrace):
    """Call both from the tracing function, where Python traces nothing, and while it is set."""
    answers, old = [], before()

    def trace(frame, event, argument):
        if not answers:
            answers.append(then())
        return trace

    watch(trace)
    try:
        Things.static(bool)
        return then() and all(answers)
    finally:
        watch(old)


def by_monitored(then):
    monitoring = getattr(sys, "monitoring", None)
    tool = monitoring and next((i for i in range(6) if monitoring.get_tool(i) is None), None)
    if tool is None:
        return then()  # 3.11, or all are taken: others watch already
    answers = []
    monitoring.use_tool_id(tool, "test")
    monitoring.register_callback(tool, monitoring.events.PY_START, lambda *_: answers or answers.append(then()))
    monitoring.set_events(tool, monitoring.events.PY_START | monitoring.events.LINE)
    try:
        Things.static(bool)
        return then() and all(answers)
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)


WAYS = {
    "function": lambda then: then() and True,
    "method": Things().method,
    "class method": Things.of_class,
    "static method": Things.static,
    "property": by_property,
    "attribute": by_attribute,
    "callable": Things(),
    "construction": lambda then: Made(then).answer,
    "metaclass": Meta("Of", (), {}),
    "nested": by_nested,
    "class body": by_class_body,
    "comprehension": lambda then: [then() for _ in range(1)][0],  # noqa: RUF015 - a list is meant
    "dict comprehension": lambda then: {i: then() for i in range(1)}[0],
    "generator expression": lambda then: next(then() for _ in range(1)),
    "generator": by_generator,
    "yield from": by_yield_from,
    "coroutine": by_coroutine,
    "async generator": by_async_generator,
    "exec": by_exec,
    "eval": lambda then: eval("(lambda: then())()", {"then": then}),  # noqa: S307 - it is what is tested
    "sorted": lambda then: len(sorted([1], key=lambda _: then())) == 1,
    "map": lambda then: next(map(lambda _: then(), [1])),  # noqa: C417 - it is what is tested
    "filter": lambda then: next(filter(lambda _: then(), [1])) == 1,
    "partial": lambda then: functools.partial(Things().method, then)(),
    "reduce": lambda then: functools.reduce(lambda _, x: then(), [1, 2]),
    "context": by_context,
    "context run": lambda then: contextvars.copy_context().run(then),
    "finalizer": by_finalizer,
    "local that ends": by_local_that_ends,
    "ctypes": by_ctypes,
    "traced": by_traced,
    "profiled": functools.partial(by_traced, watch=sys.setprofile, before=sys.getprofile),
    "monitored": by_monitored,
}


def nest(ways, then):
    """Call `then` through each of the ways, the first one outermost."""
    if not ways:
        return then()
    return WAYS[ways[0]](lambda: nest(ways[1:], then))
