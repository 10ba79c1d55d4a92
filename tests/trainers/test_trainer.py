from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import Vocabulary
from mixloom.trainers.config import DENSE, ModelConfig, TrainConfig
from mixloom.trainers.incidents import read_incidents
from mixloom.trainers.metrics import read_metrics
from mixloom.trainers.model import Model
from mixloom.trainers.trainer import train

MODEL = ModelConfig(dim=32, layers=2, heads=4)
QUICK = {"steps": 8, "batch_contexts": 3, "lr": 1e-2, "min_lr": 1e-3, "warmup": 2, "device": "cpu"}
TIMES = ("seconds", "tokens_per_second", "data_wait", "flops_per_second")


def settings(**options) -> TrainConfig:
    return TrainConfig(**{**QUICK, **options})


def untimed(records):
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def quiet(record) -> None:
    pass


def weights(result):
    return load_file(result.checkpoint / "model.safetensors")


@pytest.mark.parametrize("model", [MODEL, MODEL.model_copy(update={"untie": DENSE})])
def test_loss_falls_in_every_modality_of_a_mixture_that_can_be_learnt(
    tmp_path, make_stream, vocabulary, model
):
    result = train(
        make_stream(learnable=True), vocabulary, model, settings(steps=60), tmp_path, on_record=quiet
    )
    assert result.steps == 60
    assert not result.stopped_early
    assert result.loss_last < 0.6 * result.loss_first
    for name in ("text", "image", "speech"):
        assert result.loss_last_by_modality[name] < 0.75 * result.loss_first_by_modality[name]


def test_training_goes_on_only_with_shards_of_the_same_vocabulary(tmp_path, make_stream, vocabulary):
    ours, other = (
        Vocabulary.build(256, name, image_size=32, image_fingerprint=name).to_json()
        for name in ("one", "two")
    )
    train(make_stream(), ours, MODEL, settings(steps=1), tmp_path, on_record=quiet)
    with pytest.raises(UserError, match="of these shards") as refused:
        train(make_stream(), other, MODEL, settings(steps=1), tmp_path, on_record=quiet)
    assert ours["fingerprint"][:16] in str(refused.value)
    assert other["fingerprint"][:16] in str(refused.value)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(tmp_path, make_stream, vocabulary):
    config = settings(checkpoint_every=3)
    whole = train(make_stream(), vocabulary, MODEL, config, tmp_path / "whole", on_record=quiet)
    seen = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) == 5

    part = train(
        make_stream(), vocabulary, MODEL, config, tmp_path / "part", on_record=quiet, should_stop=stop
    )
    assert (part.steps, part.stopped_early) == (5, True)
    rest = train(make_stream(), vocabulary, MODEL, config, tmp_path / "part", on_record=quiet)
    assert (rest.steps, rest.stopped_early) == (8, False)
    ours, theirs = weights(rest), weights(whole)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert untimed(read_metrics(rest.metrics)) == untimed(read_metrics(whole.metrics))
    assert (rest.loss_first, rest.loss_last) == (whole.loss_first, whole.loss_last)
    moments = [load_file(r.checkpoint / "optimizer.safetensors") for r in (rest, whole)]
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.equal(moments[0][name], moments[1][name]) for name in moments[1])


def test_a_run_killed_between_checkpoints_repeats_the_lost_steps(tmp_path, make_stream, vocabulary):
    config = settings(checkpoint_every=3)
    whole = train(make_stream(), vocabulary, MODEL, config, tmp_path / "whole", on_record=quiet)

    class KilledError(Exception):
        pass

    def kill(record) -> None:
        if record["step"] == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(make_stream(), vocabulary, MODEL, config, tmp_path / "part", on_record=kill)
    assert [r["step"] for r in read_metrics(tmp_path / "part" / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    rest = train(make_stream(), vocabulary, MODEL, config, tmp_path / "part", on_record=quiet)
    assert untimed(read_metrics(rest.metrics)) == untimed(read_metrics(whole.metrics))
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(rest).items())


def test_a_finished_run_started_again_does_nothing(tmp_path, make_stream, vocabulary):
    first = train(make_stream(), vocabulary, MODEL, settings(), tmp_path, on_record=quiet)
    again = train(make_stream(), vocabulary, MODEL, settings(), tmp_path, on_record=quiet)
    assert again.tokens == 0
    assert (again.loss_first, again.loss_last) == (first.loss_first, first.loss_last)
    assert again.checkpoint == first.checkpoint


def test_sigterm_ends_the_run_with_a_checkpoint_and_leaves_the_handler_as_it_was(
    tmp_path, make_stream, vocabulary
):
    before = signal.getsignal(signal.SIGTERM)

    def terminate(record) -> None:
        if record["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    result = train(make_stream(), vocabulary, MODEL, settings(), tmp_path, on_record=terminate)
    assert result.stopped_early
    assert result.steps in (2, 3)
    assert result.checkpoint.name == f"step-{result.steps:08d}"
    assert signal.getsignal(signal.SIGTERM) is before


def test_accumulating_gives_the_updates_of_the_whole_batch(tmp_path, make_stream, vocabulary):
    results = [
        train(
            make_stream(contexts=4),
            vocabulary,
            MODEL,
            settings(steps=3, batch_contexts=4, grad_accumulation=parts, warmup=0),
            tmp_path / str(parts),
            on_record=quiet,
        )
        for parts in (1, 2)
    ]
    one, two = (read_metrics(r.metrics) for r in results)
    assert [r["tokens"] for r in one] == [r["tokens"] for r in two]
    assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two], rel=1e-4)
    assert [r["grad_norm"] for r in one] == pytest.approx([r["grad_norm"] for r in two], rel=1e-2)


def test_records_add_up_by_modality_and_by_domain(tmp_path, make_stream, vocabulary):
    result = train(make_stream(), vocabulary, MODEL, settings(log_every=3), tmp_path, on_record=quiet)
    records = read_metrics(result.metrics)
    assert [r["step"] for r in records] == [3, 6, 8]
    for r in records:
        for split in ("modality", "domain"):
            counts, losses = r[f"targets_by_{split}"], r[f"loss_by_{split}"]
            assert sum(counts.values()) == r["tokens"]
            mean = sum(counts[k] * losses[k] for k in counts if counts[k]) / r["tokens"]
            assert mean == pytest.approx(r["loss"], rel=1e-5)
        assert set(r["targets_by_domain"]) == {"0", "1"}
        assert 0.0 <= r["data_wait"] <= 1.0
    assert result.tokens == sum(r["tokens"] for r in records)


@contextmanager
def poisoned(call: int):
    """AdamW that spoils the embedding in its `call`-th step."""
    real, calls = torch.optim.AdamW.step, []

    def step(self, *args, **kwargs):
        out = real(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == call:
            self.param_groups[1]["params"][0].data.fill_(float("nan"))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        yield


@pytest.mark.parametrize("action", ["off", "stop"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_documents(
    tmp_path, make_stream, vocabulary, action
):
    config = settings(checkpoint_every=2, log_every=8, spike={"action": action})
    with poisoned(3), pytest.raises(UserError) as error:
        train(make_stream(), vocabulary, MODEL, config, tmp_path, on_record=quiet)
    assert "is not finite at step 4; it was not applied" in str(error.value)
    assert "doc-3-0, doc-3-1, doc-3-2" in str(error.value)
    (incident,) = read_incidents(tmp_path / "spikes.jsonl")
    assert (incident["step"], incident["kind"], incident["loss"]) == (4, "nonfinite", None)
    assert incident["documents"] == [f"doc-3-{i}" for i in range(3)]
    kept = load_file(tmp_path / "checkpoints" / "step-00000002" / "model.safetensors")
    assert all(bool(torch.isfinite(v).all()) for v in kept.values())


def test_weights_that_are_spoilt_stop_the_run_when_too_many_updates_in_a_row_were_left_out(
    tmp_path, make_stream, vocabulary
):
    config = settings(steps=12, spike={"patience": 2})
    with poisoned(3), pytest.raises(UserError, match="the weights are at fault, not the data") as error:
        train(make_stream(), vocabulary, MODEL, config, tmp_path, on_record=quiet)
    assert "the last of 3 in a row" in str(error.value)
    assert [x["cause"] for x in read_incidents(tmp_path / "spikes.jsonl")] == [
        "unclear",
        "unclear",
        "weights",
    ]
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_checkpoint_of_other_settings_or_data_is_refused_by_name(tmp_path, make_stream, vocabulary):
    train(make_stream(), vocabulary, MODEL, settings(), tmp_path, on_record=quiet)
    with pytest.raises(UserError, match=r"model\.norm: was 'pre', is 'swin'"):
        train(make_stream(), vocabulary, MODEL.model_copy(update={"norm": "swin"}), settings(), tmp_path)
    with pytest.raises(UserError, match=r"train\.lr: was 0\.01, is 0\.02"):
        train(make_stream(), vocabulary, MODEL, settings(lr=0.02), tmp_path)
    other = make_stream()
    other.name = "other data"
    with pytest.raises(UserError, match="belongs to these data, not to other data"):
        train(other, vocabulary, MODEL, settings(), tmp_path)


def test_a_checkpoint_older_than_a_setting_goes_on_with_its_default(tmp_path, make_stream, vocabulary):
    result = train(make_stream(), vocabulary, MODEL, settings(), tmp_path, on_record=quiet)
    file = result.checkpoint / "state.json"
    state = json.loads(file.read_text())
    del state["configs"]["model"]["document_mask"]
    file.write_text(json.dumps(state))
    assert train(make_stream(), vocabulary, MODEL, settings(), tmp_path, on_record=quiet).tokens == 0
    other = MODEL.model_copy(update={"document_mask": False})
    with pytest.raises(UserError, match=r"model\.document_mask: was True, is False"):
        train(make_stream(), vocabulary, other, settings(), tmp_path)


def test_training_and_evaluation_both_follow_the_document_mask(
    tmp_path, make_stream, make_contexts, vocabulary
):
    made = {}
    for mask in (True, False):
        model = ModelConfig(dim=32, layers=2, heads=4, init_std=0.2, document_mask=mask)
        folder = tmp_path / str(mask)
        config = settings(steps=1, lr=1e-9, min_lr=0, warmup=0)
        held_out = make_stream().batch_arrays(0)
        made[mask] = train(
            make_stream(), vocabulary, model, config, folder, held_out=held_out, on_record=quiet
        )
    # The weights hardly move in the one step, so both see the same contexts with the same weights.
    for result in made.values():
        assert result.loss_last == pytest.approx(result.eval_loss["all"], rel=1e-4)
    assert made[True].tokens == made[False].tokens
    assert abs(made[True].loss_last - made[False].loss_last) > 1e-3


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        ({"vocab_size": 7}, {}, "model.vocab_size is 7, but the vocabulary has 1024 ids"),
        ({"modalities": 2}, {}, "model.modalities is 2, but the vocabulary has 3 modalities"),
        ({}, {"batch_contexts": 5}, "the stream gives 3 contexts a step, but train.batch_contexts is 5"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(
    tmp_path, make_stream, vocabulary, model, options, text
):
    with pytest.raises(UserError, match=text):
        train(make_stream(), vocabulary, MODEL.model_copy(update=model), settings(**options), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_asking_for_cuda_where_there_is_none_is_an_error_in_words(tmp_path, make_stream, vocabulary):
    with pytest.raises(UserError, match=r"train\.device is cuda, but torch finds no CUDA device"):
        train(make_stream(), vocabulary, MODEL, settings(device="cuda"), tmp_path)


def test_held_out_contexts_are_evaluated_at_the_end_and_when_asked(
    tmp_path, make_stream, make_contexts, vocabulary
):
    result = train(
        make_stream(learnable=True),
        vocabulary,
        MODEL,
        settings(steps=30),
        tmp_path,
        eval_every=10,
        held_out=make_contexts(contexts=5, seed=999, learnable=True),
        on_record=quiet,
    )
    made = [r["eval_loss"] for r in read_metrics(result.metrics) if "eval_loss" in r]
    assert len(made) == 3
    assert made[-1] == result.eval_loss
    assert made[-1]["all"] < made[0]["all"]
    assert set(made[0]) == {"text", "image", "speech", "all"}


def test_bfloat16_trains_and_keeps_float32_weights(tmp_path, make_stream, vocabulary):
    config = settings(steps=40, dtype="bfloat16")
    result = train(make_stream(learnable=True), vocabulary, MODEL, config, tmp_path, on_record=quiet)
    assert result.loss_last < 0.8 * result.loss_first
    assert {v.dtype for v in weights(result).values()} == {torch.float32}


def test_progress_is_called_after_every_update_and_lines_are_printed_when_nobody_listens(
    tmp_path, make_stream, vocabulary, capsys
):
    seen = []
    train(
        make_stream(),
        vocabulary,
        MODEL,
        settings(steps=3),
        tmp_path / "a",
        progress=lambda *a: seen.append(a),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert capsys.readouterr().out == ""
    train(make_stream(), vocabulary, MODEL, settings(steps=3), tmp_path / "b")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 1/3  loss ")
    assert lines[-1].startswith("step 3/3  loss ")


def test_the_result_is_json(tmp_path, make_stream, vocabulary):
    result = train(make_stream(), vocabulary, MODEL, settings(steps=2), str(tmp_path), on_record=quiet)
    made = json.loads(json.dumps(result.to_json()))
    assert made["checkpoint"] == "checkpoints/step-00000002"
    assert made["loss_first_by_modality"]["text"] == result.loss_first_by_modality["text"]
    assert (tmp_path / made["checkpoint"] / "model.safetensors").exists()


def test_held_out_contexts_are_evaluated_though_the_last_update_was_left_out(
    tmp_path, make_stream, make_contexts, vocabulary
):
    held_out = make_contexts(contexts=5, seed=999)
    with poisoned(5):
        result = train(
            make_stream(), vocabulary, MODEL, settings(steps=6), tmp_path, held_out=held_out, on_record=quiet
        )
    assert [r["step"] for r in read_metrics(result.metrics)] == [1, 2, 3, 4, 5]
    assert set(result.eval_loss) == {"text", "image", "speech", "all"}


def test_a_finished_run_started_again_still_tells_its_held_out_losses(
    tmp_path, make_stream, make_contexts, vocabulary
):
    options = {"held_out": make_contexts(contexts=5, seed=999), "on_record": quiet}
    first = train(make_stream(), vocabulary, MODEL, settings(), tmp_path, **options)
    again = train(make_stream(), vocabulary, MODEL, settings(), tmp_path, **options)
    assert again.eval_loss == first.eval_loss != {}


def test_a_run_of_which_no_update_could_be_applied_is_told_in_words(tmp_path, make_stream, vocabulary):
    made = Model(MODEL.filled(vocab_size=vocabulary["size"], seq_len=48))
    start = {k: torch.full_like(v, torch.nan) for k, v in made.state_dict().items()}
    with pytest.raises(UserError, match="none of the 2 updates could be applied"):
        train(make_stream(), vocabulary, MODEL, settings(steps=2), tmp_path, start=start, on_record=quiet)


def test_a_modality_the_vocabulary_does_not_have_goes_by_its_number(tmp_path, make_stream, vocabulary):
    model = MODEL.model_copy(update={"modalities": 4})
    result = train(make_stream(), vocabulary, model, settings(steps=2), tmp_path, on_record=quiet)
    assert list(read_metrics(result.metrics)[0]["targets_by_modality"]) == [
        *("image", "modality3", "speech", "text")
    ]
