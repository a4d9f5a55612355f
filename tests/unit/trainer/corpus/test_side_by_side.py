"""Two runs that prepare the same text in one cache at one moment: the second waits and finds what the first made."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rewarm_trainer.corpus import tokenise
from rewarm_trainer.corpus.tokenizer import TokenizerHandle


def test_the_second_waits_for_the_first_and_nothing_is_tokenised_twice(
    bench: Any, tokenizer: TokenizerHandle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write = tokenise.write_piece
    second_came, written = threading.Event(), []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for it" in record.getMessage():
                second_came.set()

    def held_until_the_second_came(*arguments: Any) -> None:
        if written:
            second_came.set()
        written.append(arguments[0].place)
        assert second_came.wait(60), "the second run neither waited nor tokenised"
        write(*arguments)

    monkeypatch.setattr(tokenise, "write_piece", held_until_the_second_came)
    listener = Listener()
    tokenise.log.addHandler(listener)
    try:
        with ThreadPoolExecutor(2) as pool:
            first, second = (pool.submit(bench.prepare, tokenizer=tokenizer) for _ in range(2))
            assert first.result().source_folders == second.result().source_folders
            assert first.result().pins == second.result().pins
    finally:
        tokenise.log.removeHandler(listener)
    assert len(written) == len(set(written)) == 2
    assert not list(bench.cache.glob("work/*/*/"))
