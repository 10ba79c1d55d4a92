"""The stream in somebody else's trainer: the examples of docs/stream.md, and what they rely on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mixloom.mixers.mixture_log import MixtureLog
from mixloom.mixers.packed_inputs import packed_inputs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # its Trainer needs it
DOCS = Path(__file__).parents[2] / "docs" / "stream.md"


def tiny_model(vocabulary: int = 1024):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0
    )
    config.attn_pdrop = 0.0
    config._attn_implementation = "sdpa"
    return transformers.GPT2LMHeadModel(config)


def batch_of(*contexts: list[list[int]], length: int = 12):
    ids = torch.zeros(len(contexts), length, dtype=torch.int32)
    lengths = torch.zeros(len(contexts), max(map(len, contexts)), dtype=torch.int32)
    for row, documents in enumerate(contexts):
        flat = [t for d in documents for t in d]
        ids[row, : len(flat)] = torch.tensor(flat, dtype=torch.int32)
        lengths[row, : len(documents)] = torch.tensor([len(d) for d in documents])
    return {"input_ids": ids, "doc_lengths": lengths}


DOCUMENTS = ([[5, 6, 7], [9, 8, 7, 6, 5], [3]], [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]])


def test_a_packed_batch_has_the_loss_of_its_documents_one_by_one():
    model = tiny_model().eval()
    with torch.no_grad():
        packed = model(**packed_inputs(batch_of(*DOCUMENTS))).loss
        total, targets = 0.0, 0
        for document in (d for context in DOCUMENTS for d in context if len(d) > 1):
            ids = torch.tensor([document])
            total += float(model(input_ids=ids, labels=ids).loss) * (len(document) - 1)
            targets += len(document) - 1
    assert float(packed) == pytest.approx(total / targets, abs=1e-5)


def test_labels_leave_out_first_tokens_and_padding_and_positions_begin_anew():
    made = packed_inputs(batch_of(*DOCUMENTS))
    none = -100
    assert made["labels"][0].tolist() == [none, 6, 7, none, 8, 7, 6, 5, none, none, none, none]
    assert made["position_ids"][0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 0, 0, 0]
    mask = made["attention_mask"][0, 0]
    assert mask[4].tolist() == [False] * 3 + [True, True] + [False] * 7
    assert mask.diagonal().all()
    assert mask[10].sum() == 1


def test_without_a_document_mask_only_labels_are_given_and_they_are_the_same():
    apart, joined = (packed_inputs(batch_of(*DOCUMENTS), document_mask=m) for m in (True, False))
    assert set(joined) == {"input_ids", "labels"}
    assert joined["labels"].tolist() == apart["labels"].tolist()


def example(number: int) -> str:
    """The n-th program of the page that trains."""
    return [c for c in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "model" in c][
        number
    ]


def run(code: str, shards, folder, **more) -> dict:
    names = {"SHARDS": str(shards), "FOLDER": str(folder), "model": tiny_model(), **more}
    exec(compile(code, str(DOCS), "exec"), names)  # the page's own text
    return names


def test_the_bare_loop_of_the_page_trains_and_goes_on_from_its_state(shards, tmp_path):
    code = example(0)
    loop = next(line for line in code.splitlines() if line.startswith("for batch in"))
    stopping = code.replace(loop, f"{loop}\n    if batch['step'] == 3:\n        break")
    resuming = code.replace("state = stream.state(0)", "state = STATE")
    assert len({code, stopping, resuming}) == 3
    whole = run(code, shards, tmp_path)
    half = run(stopping, shards, tmp_path)
    assert half["state"]["step"] == 3
    again = run(resuming, shards, tmp_path, model=half["model"], STATE=half["state"])
    assert whole["losses"] == half["losses"] + again["losses"]
    assert len(whole["losses"]) == 8
    assert whole["losses"][-1] < whole["losses"][0]


def test_the_hugging_face_trainer_of_the_page_sees_the_stream_step_by_step(shards, tmp_path):
    made = run(example(1), shards, tmp_path)
    assert made["trainer"].state.global_step == 6
    stream = made["stream"]
    assert made["seen"][:6] == [stream.contexts(s).input_ids.tolist() for s in range(6)]
    assert isinstance(stream.log, MixtureLog)
