"""Requests to stop a run, and processes that hang."""

import faulthandler
import signal
import threading

import jax
from jax.experimental import multihost_utils

STUCK_SECONDS = 1800  # a process of a run of several ends after this time without progress


class StopRequests:
    """A context in which SIGTERM and Ctrl-C do not end the program, but make `should_stop` true.

    A second Ctrl-C ends it. In a run of several processes, all hear a request to any of them at the
    same step; and a process that does not call `should_stop` for STUCK_SECONDS, because it or
    another one hangs, ends with a traceback.
    """

    def __init__(self, several: bool | None = None):
        """`several` processes in this run? By default JAX says; it then starts its devices."""
        self._several = jax.process_count() > 1 if several is None else several
        self._asked = False
        self._calls = 0
        self._former = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # others cannot handle signals
            handlers = {signal.SIGINT: self._interrupt}
            if not self._several:  # else jax.distributed handles SIGTERM
                handlers[signal.SIGTERM] = self._ask
            self._former = {number: signal.signal(number, f) for number, f in handlers.items()}
        self._watch()
        return self

    def __exit__(self, *error):
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self._several:
            faulthandler.cancel_dump_traceback_later()

    def should_stop(self) -> bool:
        """Whether to stop now; all processes must call it equally often."""
        self._watch()
        self._calls += 1
        if self._several:
            return multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked

    def _ask(self, number, frame):
        self._asked = True

    def _interrupt(self, number, frame):
        signal.signal(signal.SIGINT, self._former[signal.SIGINT])
        signal.raise_signal(signal.SIGTERM)

    def _watch(self):
        if self._several:
            faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)
