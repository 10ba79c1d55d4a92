"""Ctrl+C counts wherever it is pressed, also where Python forgets what it raised."""

import os
import signal
import threading

import pytest

from mixloom.pipeline.interrupts import noticed, stop_if_asked


def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # the signal is looked at between instructions
        pass


class Finalised:
    def __del__(self):
        interrupted()


def test_an_interrupt_that_a_finaliser_swallows_is_raised_where_it_is_asked_for(capsys):
    with noticed():
        made = Finalised()
        del made
        with pytest.raises(KeyboardInterrupt):
            stop_if_asked()
    assert capsys.readouterr().err == ""


def test_an_interrupt_is_raised_at_once_where_it_can_be_and_is_forgotten_outside():
    before = signal.getsignal(signal.SIGINT)
    with noticed(), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(signal.SIGINT) is before
    stop_if_asked()
    with noticed():
        stop_if_asked()


def test_threads_leave_the_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with noticed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
