"""`mii chat [URL]`: talk to a model in the terminal, over the OpenAI API.

With a terminal it is a conversation; with anything else on standard input, that is the one message and
only the answer is printed.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from rich.console import Console

from mii.openai_client import OpenAIClient, RequestFailed, new_session

DEFAULT_URL = "http://127.0.0.1:8000"
HELP = "/reset forgets the conversation · /quit or Ctrl-D leaves · Ctrl-C stops an answer"
# What a model writes must not drive the terminal: control characters go, except newline and tab.
PRINTABLE = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

Message = dict[str, str]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "chat",
        help="talk to a model in the terminal",
        description="A conversation with the model behind an OpenAI-compatible URL. With a pipe as standard "
        "input, answers that one message and exits. $MII_API_KEY, if set, is sent as the bearer token.",
    )
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="URL", help=f"default: {DEFAULT_URL}")
    parser.add_argument("--model", help="default: the first that the server lists")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy; default: the server's")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="per answer; default: the server's")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 for an empty pipe. Raises RequestFailed; in a terminal only if there is no server."""
    options = {"temperature": args.temperature, "max_tokens": args.max_tokens}
    body = {name: value for name, value in options.items() if value is not None}
    with asyncio.Runner() as runner:
        session = runner.run(_open_session())
        try:
            client = runner.run(OpenAIClient.connect(session, args.url, args.model))
            chat = Chat(client, body, args.system)
            return _converse(chat, runner) if sys.stdin.isatty() else _answer_once(chat, runner)
        finally:
            runner.run(session.close())


@dataclass
class Answer:
    """One answer as it grows. Times are of the monotonic clock, in seconds."""

    started: float = field(default_factory=time.perf_counter)
    text: str = ""
    first: float | None = None
    last: float = 0.0
    chunks: int = 0
    tokens: int | None = None  # as the server counts them, at the end

    def add(self, text: str) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.text += text
        self.chunks += 1

    def statistics(self) -> str:
        """Tokens, tokens/s after the first, and its delay. Of a stopped answer each chunk counts as one."""
        if self.first is None:
            return "no text"
        tokens = self.tokens or self.chunks
        words = [f"{tokens} tokens"]
        if self.last > self.first and tokens > 1:
            words.append(f"{(tokens - 1) / (self.last - self.first):.1f} tokens/s")
        return " · ".join([*words, f"first after {self.first - self.started:.2f} s"])


class Chat:
    """A conversation: the history, and how it is sent."""

    def __init__(self, client: OpenAIClient, body: dict[str, Any], system: str | None = None) -> None:
        self.client = client
        self._body = body
        self._opening: list[Message] = [{"role": "system", "content": system}] if system else []
        self._history: list[Message] = []

    def reset(self) -> None:
        self._history.clear()

    async def ask(self, text: str, answer: Answer, status: Any = None) -> None:
        """Fills and prints `answer`. Whatever was said until an interruption stays in the history.

        `status` is stopped at the first text. Raises RequestFailed; then the message is not remembered.
        """
        message = {"role": "user", "content": text}
        body = {**self._body, "messages": [*self._opening, *self._history, message]}
        try:
            async for chunk in self.client.stream("/v1/chat/completions", body):
                for choice in chunk.choices:
                    if choice.new_text:
                        _write(choice.new_text, status if answer.first is None else None)
                        answer.add(choice.new_text)
                if chunk.usage:
                    answer.tokens = chunk.usage.completion_tokens
        except asyncio.CancelledError:
            self._remember(message, answer)
            raise
        self._remember(message, answer)

    def _remember(self, message: Message, answer: Answer) -> None:
        if answer.text:
            self._history += [message, {"role": "assistant", "content": answer.text}]


def _converse(chat: Chat, runner: asyncio.Runner) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - line editing and history for input()
    console = Console(highlight=False)
    console.print(f"[bold]{chat.client.model}[/] at {chat.client.url}\n[dim]{HELP}[/]")
    while True:
        try:
            text = input("\n> ").strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            continue
        if text == "/quit":
            return 0
        if text.startswith("/"):
            console.print(_command(chat, text), style="dim", markup=False)
        elif text:
            _turn(chat, runner, console, text)


def _turn(chat: Chat, runner: asyncio.Runner, console: Console, text: str) -> None:
    """One question and its answer; Ctrl-C cancels the request and nothing else."""
    answer = Answer()
    stopped = ""
    try:
        with console.status("") as status:
            runner.run(chat.ask(text, answer, status))
    except KeyboardInterrupt:
        stopped = "stopped · "
    except RequestFailed as error:
        console.print(f"error: {error}", style="red", markup=False)
        return
    console.print(f"\n[dim]{stopped}{answer.statistics()}[/]")


def _command(chat: Chat, text: str) -> str:
    if text == "/reset":
        chat.reset()
        return "forgotten"
    return HELP if text == "/help" else f"{text} is not a command: {HELP}"


def _answer_once(chat: Chat, runner: asyncio.Runner) -> int:
    text = sys.stdin.read().strip()
    if not text:
        print("mii chat: error: nothing on standard input to answer", file=sys.stderr)
        return 1
    runner.run(chat.ask(text, Answer()))
    print()
    return 0


async def _open_session() -> aiohttp.ClientSession:
    return new_session()


def _write(text: str, status: Any) -> None:
    if status is not None:
        status.stop()
    sys.stdout.write(text.translate(PRINTABLE) if sys.stdout.isatty() else text)
    sys.stdout.flush()
