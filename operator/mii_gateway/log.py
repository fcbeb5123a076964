"""Structured logs: one JSON object a line on standard error, written by a thread of its own."""

import json
import logging
import logging.handlers
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp.http_exceptions import HttpProcessingError


class JsonFormatter(logging.Formatter):
    """time, level, logger, message; then what `extra={"fields": {...}}` says."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_text or record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info or sys.exc_info())
        return json.dumps(line, default=str)


class _Handoff(logging.handlers.QueueHandler):
    """Formats in the writer's thread, not on the event loop; nothing here crosses a process."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


def _not_a_malformed_request(record: logging.LogRecord) -> bool:
    """aiohttp logs a traceback for each, and anyone can send them."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Within, a reader of the log that is slow does not hold up the event loop."""
    writer = logging.StreamHandler(sys.stderr)
    writer.setFormatter(JsonFormatter())
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(lines, writer)
    handoff = _Handoff(lines)
    handoff.addFilter(_not_a_malformed_request)
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.addHandler(handoff)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        root.removeHandler(handoff)
