"""Who is compared, and how each does each subject's work; imports none of them, so that an absent one can be named."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata


class NotApplicable(str):
    """Why a peer cannot do a subject's work at all."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One way to use one library.

    Attributes:
        module: The file beside this one that does the work, imported in a process of its own.
        distribution: What pip installs; empty for the standard library.
        agents: How many are made at once for `spawn` and `memory`: fewer where each is a thread or a process.
        how: For each subject in a sentence how it is done, or a NotApplicable.
        environment: What its documentation says to set where it runs on one machine and is not traced.
        beside: The entry of pmesh that it is compared with: the one whose handlers are of the same kind.
    """

    key: str
    title: str
    module: str
    distribution: str
    layout: str
    agents: int
    how: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: str = "pmesh"

    @property
    def version(self) -> str:
        """As installed here, or empty."""
        if not self.distribution:
            return platform.python_version()
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return ""


ONE_LOOP = "one process, one event loop"
NO_LOOP = NotApplicable("its actors have threads of their own, there is no loop to get into")
OWN_PROCESSES = NotApplicable("its actors are processes of their own, there is no loop to get into")


def queue_how(threads: str) -> dict[str, str]:
    return {
        "tell": "a producer and a consumer task, `await` on put and get, `maxsize=256`",
        "ask": "a ping-pong over two queues",
        "ask100": "100 client tasks with a queue each to come back on, one queue to the answering task",
        "fan_in": "10 producer tasks, one consumer task",
        "ring": "100 tasks, each with a queue of its own",
        "threads": threads,
        "spawn": "a queue has no agents: a task that loops around a queue, until it waits for its first item",
        "memory": "that task and its queue",
    }


XOSCAR_HOW = {
    "tell": "`await ref.take.tell(item)`; the handler sets an event with the last one",
    "ask": "`await ref.take(item)`",
    "ask100": "100 client tasks",
    "fan_in": "10 tasks that tell",
    "ring": "each actor tells the next through its reference",
    "threads": NotApplicable("a reference belongs to the loop of its pool, its guide has no call for other threads"),
    "spawn": "`await xo.create_actor`, from the pool's process",
    "memory": "actors in one pool",
}

THESPIAN_HOW = {
    "tell": "`ActorSystem.tell` from outside, then an `ask` that is answered when all are handled",
    "ask": "`ActorSystem.ask` from outside",
    "ask100": "a client actor with 100 messages under way, which sends the next for each answer",
    "fan_in": "10 sender actors, each in bursts of 25 that the sink acknowledges",
    "ring": "each actor sends to the next",
    "spawn": "`createActor`, until the new actor has answered once",
    "memory": "actors that have answered once",
}

PMESH_HOW = {
    "tell": "`tell` from a task, which gives the loop a turn when the mailbox of 256 is full",
    "ask": "`await ref.ask(item)`, with its timeout of 5 s",
    "ask100": "100 client tasks",
    "fan_in": "10 tasks that tell",
    "ring": "each handler tells the next agent",
    "threads": "`tell` from the thread into a mailbox of 256; one that is refused is tried again",
    "spawn": "`await mesh.spawn(Class)`",
    "memory": "agents of a class with one handler",
}

PLAIN = "pmesh-plain"

ENTRIES = {
    entry.key: entry
    for entry in (
        Entry(
            "pmesh",
            "pmesh",
            "peer_pmesh",
            "pmesh",
            ONE_LOOP,
            10_000,
            PMESH_HOW,
        ),
        Entry(
            PLAIN,
            "pmesh, plain handlers",
            "peer_pmesh",
            "pmesh",
            f"{ONE_LOOP}; handlers are plain functions",
            10_000,
            PMESH_HOW,
        ),
        Entry(
            "asyncio",
            "asyncio.Queue",
            "peer_asyncio",
            "",
            ONE_LOOP,
            10_000,
            queue_how("`loop.call_soon_threadsafe(queue.put_nowait, item)`, which has no bound"),
        ),
        Entry(
            "janus",
            "janus",
            "peer_janus",
            "janus",
            ONE_LOOP,
            10_000,
            queue_how("`sync_q.put` in the thread, `await async_q.get()` in the task, `maxsize=256`"),
        ),
        Entry(
            "culsans",
            "culsans",
            "peer_culsans",
            "culsans",
            ONE_LOOP,
            10_000,
            queue_how("`sync_q.put` in the thread, `await async_q.get()` in the task, `maxsize=256`"),
        ),
        Entry(
            "pykka",
            "Pykka",
            "peer_pykka",
            "pykka",
            "one process, a thread for each actor",
            200,
            {
                "tell": "`ref.tell(item)` from the main thread, then an `ask`; its inbox has no bound",
                "ask": "`ref.ask(item)`, which blocks the thread",
                "ask100": "`ref.ask(item, block=False)` 100 times, then `pykka.get_all`",
                "fan_in": "10 sender actors that tell",
                "ring": "each actor tells the next",
                "threads": NO_LOOP,
                "spawn": "`Sink.start()`",
                "memory": "a thread each",
            },
            beside=PLAIN,
        ),
        Entry(
            "thespian-simple",
            "Thespian, simple",
            "peer_thespian",
            "thespian",
            "one process, one thread: `simpleSystemBase` calls actors in place",
            2_000,
            THESPIAN_HOW
            | {"threads": NotApplicable("its actors run in the main thread when that calls, without a loop")},
            beside=PLAIN,
        ),
        Entry(
            "thespian-tcp",
            "Thespian, TCP",
            "peer_thespian",
            "thespian",
            "a process for each actor: `multiprocTCPBase`",
            20,
            THESPIAN_HOW | {"threads": OWN_PROCESSES},
            {"THESPIAN_BASE_IPADDR": "127.0.0.1"},
            PLAIN,
        ),
        Entry("xoscar", "xoscar", "peer_xoscar", "xoscar", ONE_LOOP, 10_000, XOSCAR_HOW),
        Entry(
            "xoscar-local",
            "xoscar, local reference",
            "peer_xoscar",
            "xoscar",
            f"{ONE_LOOP}; references by `xo.actor_ref`, which call actors of the own process in place",
            10_000,
            XOSCAR_HOW
            | {
                "tell": "`await ref.take.tell(item)`, which makes a task for each message",
                "spawn": "`await xo.create_actor` and `await xo.actor_ref`",
            },
        ),
        Entry(
            "autogen-core",
            "autogen-core",
            "peer_autogen",
            "autogen-core",
            f"{ONE_LOOP}: `SingleThreadedAgentRuntime`, without tracing",
            10_000,
            {
                "tell": "`publish_message` to a topic with one subscriber, 256 unprocessed",
                "ask": "`await runtime.send_message`",
                "ask100": "100 client tasks",
                "fan_in": "10 tasks that publish",
                "ring": "each agent publishes to the topic of the next",
                "threads": NotApplicable("its runtime belongs to one loop, its guide has no call for other threads"),
                "spawn": "`try_get_underlying_agent_instance`, which makes an agent as its first message would",
                "memory": "agents without messages",
            },
            {"AUTOGEN_DISABLE_RUNTIME_TRACING": "true"},
        ),
        Entry(
            "ray",
            "Ray",
            "peer_ray",
            "ray",
            "a process for each actor",
            5,
            {
                "tell": "`actor.take.remote(item)`, then `ray.get` of a count",
                "ask": "`ray.get(actor.take.remote(item))`",
                "ask100": "100 calls, then `ray.get` of all",
                "fan_in": "10 sender actors",
                "ring": "each actor calls the next; an async actor ends the wait",
                "threads": OWN_PROCESSES,
                "spawn": "until each actor has answered once",
                "memory": "actors that have answered once",
            },
            # Nothing is reported home, no token is left in the home folder, and only 127.0.0.1 is listened at: the
            # name of the last one is of where that is the default.
            {
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_AUTH_MODE": "disabled",
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            },
        ),
    )
}
