"""The mixture log: a chain of entries that may only grow, and never into the past."""

from __future__ import annotations

import json

import pytest

from mixloom.mixers.mixture import Mixture, MixtureDomain, Phase
from mixloom.mixers.mixture_log import LOG_NAME, ExcludeEntry, MixtureEntry, MixtureLog
from mixloom.pipeline.errors import UserError


def mixture(a: float) -> Mixture:
    domains = (
        MixtureDomain(name="ä", tokens=100, max_epochs=9),
        MixtureDomain(name="b", tokens=100, max_epochs=9),
    )
    weights = Phase(weights={"ä": a, "b": 1 - a})
    return Mixture(estimator="fixed", inputs="x", budget_tokens=100, domains=domains, phases=(weights,))


def other(step: int, a: float = 0.25) -> MixtureEntry:
    return MixtureEntry(from_step=step, mixture=mixture(a), reason="more ä")


def without(step: int, *contexts: tuple[str, int]) -> ExcludeEntry:
    return ExcludeEntry(from_step=step, contexts=contexts or (("b", 3),), documents=("d1",), reason="spike")


def test_a_log_survives_the_disk_with_its_fingerprint(tmp_path):
    path = tmp_path / "train" / LOG_NAME
    log = MixtureLog.load(path)
    assert (log.entries, log.fingerprint) == ((), "")
    assert not path.exists()
    log.append(other(10))
    log.append(without(5))
    again = MixtureLog.load(path)
    assert again.entries == log.entries == (other(10), without(5))
    assert again.fingerprint == log.fingerprint != MixtureLog([other(10)]).fingerprint
    assert [p.name for p in path.parent.iterdir()] == [LOG_NAME]
    assert [e.from_step for e in again.effective()] == [5, 10]


def test_what_was_written_stays_as_it_is_when_an_entry_is_added(tmp_path):
    log = MixtureLog(path=tmp_path / LOG_NAME)
    log.append(other(10))
    first = (tmp_path / LOG_NAME).read_text()
    log.append(other(20, 0.5))
    assert (tmp_path / LOG_NAME).read_text().startswith(first)
    assert first.endswith("\n")


def test_an_entry_that_would_change_served_steps_is_refused_and_not_written(tmp_path):
    log = MixtureLog(path=tmp_path / LOG_NAME)
    with pytest.raises(UserError, match="begins at step 9, but 10 steps have been served") as e:
        log.append(other(9), served=10)
    assert "let it begin at step 10 or later" in e.value.fix
    assert not (tmp_path / LOG_NAME).exists()
    assert log.entries == ()
    log.append(other(10), served=10)


def test_what_a_checkpoint_depends_on_is_not_changed_by_entries_for_later_steps():
    log = MixtureLog()
    assert log.before(100) == ""
    log.append(other(10))
    early = log.before(20)
    assert log.before(10) == ""
    assert log.before(11) == early != ""
    log.append(without(20))
    assert log.before(20) == early
    assert log.before(21) != early
    # An entry for an earlier step, made later, counts in the order in which both take effect.
    ahead = MixtureLog([other(50), without(20)])
    assert ahead.before(60) == MixtureLog([without(20), other(50)]).before(60)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [*lines[:1], *lines[2:]], "line 2 was changed, or lines before it"),
        (lambda lines: lines[::-1], "line 1 was changed"),
        (lambda lines: [lines[0].replace("0.25", "0.26"), *lines[1:]], "line 1.* weights sum to 1.01"),
        (lambda lines: [lines[0].replace("more", "less"), *lines[1:]], "line 1 was changed"),
        (lambda lines: [lines[0], lines[1][:40]], "line 2 is no entry of a mixture log"),
        (lambda lines: [lines[0].replace('"version": 1', '"version": 2')], "line 1: .*version 2"),
        (lambda lines: [lines[0].replace('"kind": "mixture"', '"kind": "mixtures"')], "line 1 is no entry"),
        (lambda lines: ["[]"], "line 1 is no entry"),
    ],
)
def test_a_log_that_was_tampered_with_is_refused(tmp_path, damage, said):
    path = tmp_path / LOG_NAME
    log = MixtureLog(path=path)
    for entry in (other(10), without(20), without(30, ("ä", 1))):
        log.append(entry)
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match=said) as e:
        MixtureLog.load(path)
    assert str(path) in e.value.what


def test_two_writers_do_not_overwrite_each_other(tmp_path):
    path = tmp_path / LOG_NAME
    one, two = MixtureLog.load(path), MixtureLog.load(path)
    one.append(other(10))
    with pytest.raises(UserError, match="was changed since it was read"):
        two.append(other(20))
    assert MixtureLog.load(path).entries == (other(10),)


def test_an_exclusion_names_at_least_one_context():
    with pytest.raises(ValueError, match="at least 1 item"):
        ExcludeEntry(from_step=0, contexts=())


def test_lines_are_plain_json_that_names_the_change(tmp_path):
    log = MixtureLog(path=tmp_path / LOG_NAME)
    log.append(without(7))
    line = json.loads((tmp_path / LOG_NAME).read_text())
    assert line["entry"] == {
        "kind": "exclude",
        "from_step": 7,
        "contexts": [["b", 3]],
        "documents": ["d1"],
        "reason": "spike",
    }
    assert line["previous"] == ""
