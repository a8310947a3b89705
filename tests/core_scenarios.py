"""What the threads of `core_model.Core` do: a few agents, a script of the loop, a foreign thread."""

from __future__ import annotations

from collections.abc import Callable

from core_model import DROP_NEWEST, DROP_OLDEST, REJECT, STOP, Core, Mail, MailCell
from schedules import Steps

__all__ = ["SCENARIOS"]

Build = Callable[[type[Core]], Core]

SCENARIOS: dict[str, Build] = {}


def scenario(build: Build) -> Build:
    """Its name is that of the function, in words."""
    SCENARIOS[build.__name__.replace("_", " ")] = build
    return build


def tells(core: Core, *cells: MailCell, sender: str = "t") -> Steps:
    """A foreign thread that tells a message to each of `cells` in turn."""
    for number, cell in enumerate(cells, 1):
        yield from core.tell(Mail(sender, number, cell))


def turn() -> Steps:
    """Of the loop, in which a task does nothing: what threads caused before may come before what it does then."""
    yield from ()


def ready(core: Core, *foreign: Steps, script: list[Callable[[], Steps]] | None = None) -> Core:
    """Its threads: the loop, with a script that begins after a turn, and `foreign` ones."""
    core.threads["loop"] = core.run_forever()
    for number, thread in enumerate(foreign):
        core.threads["thread" if number == 0 else f"thread{number + 1}"] = thread
    if script:
        core.script = [turn, *script]
        core.callbacks.append(core.later(core.act, 0))
    return core


def asks(core: Core, number: int, cell: MailCell) -> Callable[[], Steps]:
    """A task in the loop asks; its answer comes later."""
    mail = Mail("l", number, cell, is_ask=True)

    def ask() -> Steps:
        return core.tell(mail)

    ask.__qualname__ = f"ask {mail.name}"
    return ask


@scenario
def one_message_to_an_idle_agent(kind: type[Core]) -> Core:
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a))


@scenario
def two_messages_and_the_end_of_drain(kind: type[Core]) -> Core:
    """The second may come when drain has seen that nothing is left, and has not said so yet."""
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a, a))


@scenario
def three_messages_to_one_agent(kind: type[Core]) -> Core:
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a, a, a))


@scenario
def three_messages_in_batches_of_one(kind: type[Core]) -> Core:
    """The agent goes back to the run queue after each."""
    a = MailCell("a")
    core = kind([a], batch=1)
    return ready(core, tells(core, a, a, a))


@scenario
def three_messages_in_slices_of_one(kind: type[Core]) -> Core:
    """Drain gives the loop back after each, and has itself called again while there is more."""
    a = MailCell("a")
    core = kind([a], slice_messages=1)
    return ready(core, tells(core, a, a, a))


@scenario
def three_messages_to_two_agents(kind: type[Core]) -> Core:
    a, b = MailCell("a"), MailCell("b")
    core = kind([a, b])
    return ready(core, tells(core, a, b, a))


@scenario
def three_agents_one_message_each_in_batches_of_one(kind: type[Core]) -> Core:
    a, b, c = MailCell("a"), MailCell("b"), MailCell("c")
    core = kind([a, b, c], batch=1)
    return ready(core, tells(core, a, b, c))


@scenario
def tell_many(kind: type[Core]) -> Core:
    """`AgentRef.tell_many` is one tell after the other: beside it a task in the loop tells the same agent."""
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a, a), script=[lambda: core.tell(Mail("l", 1, a))])


@scenario
def a_handler_tells_the_agent_that_the_thread_tells(kind: type[Core]) -> Core:
    def forward(cell: MailCell, mail: Mail) -> Steps:
        yield from core.tell(Mail("a", mail.number, b), from_handler=True)

    a, b = MailCell("a", forward), MailCell("b")
    core = kind([a, b])
    return ready(core, tells(core, a, b))


@scenario
def a_handler_that_suspends(kind: type[Core]) -> Core:
    """It takes the only slot; told meanwhile, the agent becomes ready when the slot is free again."""
    a = MailCell("a", suspends=True)
    core = kind([a])
    return ready(core, tells(core, a, a))


@scenario
def two_handlers_that_suspend_side_by_side(kind: type[Core]) -> Core:
    a = MailCell("a", suspends=True, concurrency=2)
    core = kind([a])
    return ready(core, tells(core, a, a))


@scenario
def tell_against_the_start(kind: type[Core]) -> Core:
    """An agent takes mail while it starts, and handles none until it has."""
    a = MailCell("a", paused=True)
    core = kind([a])
    return ready(core, tells(core, a, a), script=[lambda: core.resume(a)])


@scenario
def tell_against_suspend_and_resume(kind: type[Core]) -> Core:
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a, a), script=[lambda: core.pause(a), lambda: core.resume(a)])


@scenario
def tell_against_stop(kind: type[Core]) -> Core:
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a, a), script=[lambda: core.begin_stop(a)])


@scenario
def tell_against_stop_with_a_handler_suspended(kind: type[Core]) -> Core:
    a = MailCell("a", suspends=True)
    core = kind([a])
    return ready(core, tells(core, a, a), script=[lambda: core.begin_stop(a)])


@scenario
def tell_against_drain_of_the_agent(kind: type[Core]) -> Core:
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a, a), script=[lambda: core.begin_drain(a)])


@scenario
def tell_against_leaving_the_coordinator(kind: type[Core]) -> Core:
    def leave() -> Steps:
        yield "Coordinator: closing"
        core.closing = True
        yield from core.begin_stop(a)

    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a, a), script=[leave])


def overflow(policy: str) -> Build:
    def build(kind: type[Core]) -> Core:
        a = MailCell("a", capacity=1, overflow=policy)
        core = kind([a])
        return ready(core, tells(core, a, a, a))

    return build


for policy in (REJECT, DROP_NEWEST, DROP_OLDEST, STOP):
    SCENARIOS[f"capacity 1, {policy}"] = overflow(policy)


@scenario
def a_thread_displaces_an_ask(kind: type[Core]) -> Core:
    """The asker is told in the loop, once."""
    a = MailCell("a", capacity=1, overflow=DROP_OLDEST)
    core = kind([a])
    return ready(core, tells(core, a, a), script=[asks(core, 1, a)])


@scenario
def a_thread_displaces_asks_while_the_agent_stops(kind: type[Core]) -> Core:
    a = MailCell("a", capacity=1, overflow=DROP_OLDEST)
    core = kind([a])
    return ready(core, tells(core, a), script=[asks(core, 1, a), lambda: core.begin_stop(a)])


@scenario
def tell_against_the_closing_of_the_loop(kind: type[Core]) -> Core:
    """The loop is closed under a coordinator that was never left."""
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a, a), script=[core.close_loop])


@scenario
def dropping_against_the_closing_of_the_loop(kind: type[Core]) -> Core:
    a = MailCell("a", capacity=1, overflow=DROP_OLDEST)
    core = kind([a])
    return ready(core, tells(core, a, a), script=[core.close_loop])


@scenario
def dropping_at_resume_against_the_closing_of_the_loop(kind: type[Core]) -> Core:
    """One message waits; another displaces it, and makes the agent ready, when it resumes just then."""
    a = MailCell("a", capacity=1, overflow=DROP_OLDEST, paused=True)
    core = kind([a])
    return ready(core, tells(core, a, a), script=[lambda: core.resume(a), core.close_loop])


@scenario
def STOP_against_the_closing_of_the_loop(kind: type[Core]) -> Core:  # noqa: N802 - the policy's name
    a = MailCell("a", capacity=1, overflow=STOP)
    core = kind([a])
    return ready(core, tells(core, a, a), script=[core.close_loop])


@scenario
def two_threads_tell_one_agent(kind: type[Core]) -> Core:
    a = MailCell("a")
    core = kind([a])
    return ready(core, tells(core, a), tells(core, a, sender="u"))


@scenario
def two_threads_overflow_one_agent(kind: type[Core]) -> Core:
    a = MailCell("a", capacity=1, overflow=DROP_OLDEST)
    core = kind([a])
    return ready(core, tells(core, a), tells(core, a, sender="u"))
