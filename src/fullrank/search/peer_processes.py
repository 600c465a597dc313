"""A network of G-Rank peers in several processes that speak over TCP on this machine, with churn and kills."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from fullrank.search.gossip_wire import Address
from fullrank.search.network_agreement import Snapshot, Traffic, summary
from fullrank.search.peer_host import Plan, serve
from fullrank.search.peer_scenarios import Event, Timeline
from fullrank.search.run import at_least_one

_SECONDS = 120  # that a process may take for what it is told
_HOLD_TOGETHER = ("query", "attack")  # events that several processes may see to at the same time


def _context() -> Any:
    """Processes that start clean; where the system can, from one that has loaded what they need once for all."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([serve.__module__])
    return context


class ProcessNetwork:
    """The network of a timeline between processes; the same events as in `P2PSimulation`, over TCP on 127.0.0.1.

    Args:
        timeline: what happens. Honest peers click the top result.
        F: isolation constant.
        processes: how many; peer n lives in number n modulo so many.
        in_flight: how many events are seen to at the same time. With 1 the run is the one of `P2PSimulation`.
        folder: where peers are stored at every measurement, and each click at once.
        kills: steps behind which a process, another one each time, is killed without warning and started anew.

    Attributes:
        refused: reason -> messages, connections and rows that were not accepted, so far.
        unreached: exchanges that failed because nobody answered, so far.

    Raises:
        ValueError: processes or in_flight below 1, or kills without a folder.
    """

    def __init__(
        self,
        timeline: Timeline,
        F: float | int = 0.0,
        processes: int = 2,
        in_flight: int = 1,
        folder: str | Path | None = None,
        kills: Sequence[int] = (),
    ) -> None:
        for name, value in (("processes", processes), ("in_flight", in_flight)):
            at_least_one(value, name)
        if kills and folder is None:
            raise ValueError(f"kills={list(kills)} without a folder would lose peers; say where they are stored")
        self.timeline, self.in_flight, self.kills = timeline, in_flight, sorted(kills)
        self.refused: Counter[str] = Counter()
        self.unreached = 0
        plan = Plan(timeline, F, None if folder is None else Path(folder), {})
        self._plans = [plan for _ in range(processes)]
        self._context = _context()
        self._started: list[tuple[Any, Connection]] = []
        self._addresses: dict[int, Address] = {}
        self._away: set[int] = set()

    def run(self, every: int = 100) -> list[Snapshot]:
        """The network every so many steps, and at the start.

        Raises:
            ValueError: every below 1.
            RuntimeError: a process has failed, has ended, or does not answer.
        """
        with self:
            found: list[Snapshot] = []
            waiting: list[Event] = []
            kills = list(self.kills)
            for event in self.timeline.events(every):
                if waiting and (event.kind not in _HOLD_TOGETHER or len(waiting) >= self.in_flight):
                    self._see_to(waiting)
                    waiting = []
                while kills and event.step > kills[0]:
                    self._kill((len(self.kills) - len(kills)) % len(self._plans))
                    kills.pop(0)
                if event.kind in _HOLD_TOGETHER:
                    waiting.append(event)
                elif event.kind == "measure":
                    found.append(self._measure(event.step))
                else:
                    self._move(event)
        return found

    def __enter__(self) -> ProcessNetwork:
        self._started = [self._start(plan) for plan in self._plans]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, connection in self._started:
            connection.close()
        for process, _ in self._started:
            process.join(_SECONDS if kind is None else 0)
            process.kill()
            process.join()

    def _start(self, plan: Plan) -> tuple[Any, Connection]:
        ours, theirs = multiprocessing.Pipe()
        process = self._context.Process(target=serve, args=(theirs, plan), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _kill(self, number: int) -> None:
        """Kill a process, and start it anew with the peers that it had."""
        process, connection = self._started[number]
        process.kill()
        process.join()
        connection.close()
        ports = {node: at.port for node, at in self._addresses.items() if node % len(self._plans) == number}
        plan = self._plans[number]
        self._plans[number] = replace(plan, ports=ports, away=frozenset(self._away), life=plan.life + 1)
        self._started[number] = self._start(self._plans[number])

    def _move(self, event: Event) -> None:
        """Somebody joins, leaves or returns."""
        number = event.node % len(self._plans)
        if event.kind == "join":
            host = None if event.host is None else self._addresses[event.host]
            self._addresses[event.node] = self._tell({number: ("join", event, host)})[number]
        elif event.kind == "leave":
            self._away.add(event.node)
            self._tell({number: ("leave", event.node)})
        else:
            self._away.discard(event.node)
            self._tell({number: ("come_back", event.node)})

    def _see_to(self, events: list[Event]) -> None:
        parts: dict[int, list[Event]] = {}
        for event in events:
            parts.setdefault(event.node % len(self._plans), []).append(event)
        self._tell({number: ("see_to", part) for number, part in parts.items()})

    def _measure(self, step: int) -> Snapshot:
        everybody = range(len(self._plans))
        clicks = sum(self._tell(dict.fromkeys(everybody, ("clicks",))).values())
        looks = self._tell(dict.fromkeys(everybody, ("look", clicks)))
        traffic = Traffic()
        for look in looks.values():
            traffic = traffic.join(look.traffic)
            self.refused += look.refused
            self.unreached += look.unreached
        return summary(
            step,
            [agreement for look in looks.values() for agreement in look.agreements],
            [rows for look in looks.values() for rows in look.rows],
            traffic,
        )

    def _tell(self, orders: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Tell some processes what to do, at the same time, and wait for what they say."""
        try:
            for number, order in orders.items():
                self._started[number][1].send(order)
            return {number: self._hear(number) for number in orders}
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise RuntimeError("a process of the network has ended; what it wrote to the console says why") from error

    def _hear(self, number: int) -> Any:
        connection = self._started[number][1]
        if not connection.poll(_SECONDS):
            raise RuntimeError(f"process {number} of the network does not answer within {_SECONDS} seconds")
        problem, answer = connection.recv()
        if problem is not None:
            raise RuntimeError(f"process {number} of the network failed: {problem}")
        return answer
