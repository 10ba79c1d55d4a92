from __future__ import annotations

import pytest

from mixloom.trainers.metrics import MetricsLog, TimeLeft, ends, progress_line, read_metrics


def record(step: int, loss: float, text: int = 10, image: int = 0) -> dict:
    return {
        "step": step,
        "loss": loss,
        "tokens": text + image,
        "loss_by_modality": {"text": loss if text else None, "image": 2 * loss if image else None},
        "targets_by_modality": {"text": text, "image": image},
    }


def test_what_is_written_is_read_and_reopening_drops_the_steps_to_be_redone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(1, 6):
        log.write(record(step, 1.0))
    log.close()
    MetricsLog(path, last_step=3).close()
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1}]


def test_ends_are_means_over_ten_steps_weighted_by_targets():
    records = [record(i, float(i), text=1 if i < 5 else 3) for i in range(40)]
    made = ends(records, ["text", "image"])
    assert made.steps == 10
    assert made.first == pytest.approx((0 + 1 + 2 + 3 + 4 + 3 * (5 + 6 + 7 + 8 + 9)) / 20)
    assert made.last == pytest.approx(34.5)
    assert made.first_by_modality == {"text": pytest.approx(made.first), "image": None}


def test_a_rare_modality_counts_only_where_it_was_seen():
    records = [record(i, 1.0, image=5 if i == 2 else 0) for i in range(30)]
    made = ends(records, ["text", "image"])
    assert made.first_by_modality["image"] == pytest.approx(2.0)
    assert made.last_by_modality["image"] == pytest.approx(2.0)  # the only step that had it is both ends


@pytest.mark.parametrize(("count", "window"), [(1, 1), (7, 3), (25, 10), (1000, 50)])
def test_the_two_ends_never_overlap_from_two_steps_on(count, window):
    assert ends([record(i, 1.0) for i in range(count)], ["text"]).steps == window


def test_no_records_have_no_ends():
    with pytest.raises(ValueError, match="no logged step"):
        ends([], ["text"])


def test_the_ends_of_a_rare_modality_are_those_of_the_steps_that_had_it():
    def record(step, speech):
        return {
            "loss": 1.0,
            "tokens": 10,
            "loss_by_modality": {"speech": 5.0 - 0.1 * step if speech else None},
            "targets_by_modality": {"speech": 2 if speech else 0},
        }

    found = ends([record(i, speech=i in (3, 20)) for i in range(40)], ("speech", "image"))
    assert found.first_by_modality["speech"] == pytest.approx(4.7)
    assert found.last_by_modality["speech"] == pytest.approx(3.0)
    assert found.first_by_modality["image"] is None


def full_record(step: int, seconds: float = 1.0, **more):
    losses = {"text": 2.0, "image": None}
    return {"step": step, "steps": 1000, "loss": 2.0, "loss_by_modality": losses, "lr": 1e-3} | {
        "tokens_per_second": 1234.0,
        "seconds": seconds,
        **more,
    }


def test_the_time_left_is_said_only_once_it_is_known_and_a_pause_does_not_move_it():
    left = TimeLeft()
    assert left.after(full_record(10, 60.0)) is None  # the first holds the warming up
    assert left.after(full_record(20)) is None
    assert left.after(full_record(30)) == pytest.approx(97.0)
    for step in range(40, 100, 10):
        left.after(full_record(step))
    assert left.after(full_record(100, 300.0)) == pytest.approx(90.0)


def test_a_progress_line_says_what_is_known():
    line = progress_line(full_record(10), 3725.0)
    assert line == "step 10/1000  loss 2.000  text 2.000  lr 1.00e-03  1,234 tokens/s  1 h 02 min left"
    more = progress_line(full_record(10, mfu=0.4321, skipped=[7, 9], caution="look out"), 75.0)
    assert more.endswith("MFU 43.2 %  1 min 15 s left  left out: 7, 9  look out")
    assert "left" not in progress_line(full_record(1000), 0.0)
