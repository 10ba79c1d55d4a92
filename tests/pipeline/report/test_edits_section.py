"""The report on edits: what was removed is shown with the words around it, personal data never."""

import pyarrow as pa

from mixloom.pipeline.edits import EDITS
from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.report import edits
from mixloom.pipeline.run import RunDirectory, StageManifest
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch

TEXT = "Read this. MENU <b>MENU</b> And write to someone@example.org for more."


def manifest(stage, parts, info):
    return StageManifest(stage, "k", {}, {}, Counts(), parts, [], 1, 0.0, 0.0, {}, info)


def run_with(tmp_path, *found):
    run = RunDirectory(str(tmp_path))
    document = Document(
        source="web", locator=Locator(uri="a.txt"), segments=(Segment(kind="text", text=TEXT),)
    )
    batch = documents_batch([document])
    written = run.stage("ingest").write_table("part-0.parquet", "part-0", pa.Table.from_batches([batch]))
    out = {"ingest": manifest("ingest", [written], {})}
    for stage, start, stop, put, reason in found:
        row = {"doc_id": document.doc_id, "row": 0, "segment": 0, "start": start, "stop": stop}
        table = pa.Table.from_pylist(
            [{**row, "replacement": put, "reason": reason, "value": None, "limit": None}], schema=EDITS
        )
        part = run.stage(stage).write_table("edits/part-0.parquet", "edits/part-0", table)
        out[stage] = manifest(stage, [part], {"edits": {reason: 1}, "edited_documents": 1})
    return run, out


def test_a_change_stands_between_the_words_around_it_and_later_stages_see_it_made(tmp_path):
    start = TEXT.index("MENU")
    run, manifests = run_with(
        tmp_path, ("filter", start, start + 12 + 4, "", "capitals"), ("noise", 0, 5, "", "noise_random")
    )
    html = str(edits.sections(run, manifests)[0].body)
    assert "Read this. <del>MENU &lt;b&gt;MENU&lt;/b&gt;</del> And write to" in html
    assert "<del>Read </del>this.  And write to" in html  # the text as the stage before left it


def test_personal_data_are_counted_and_never_shown(tmp_path):
    start = TEXT.index("someone@")
    run, manifests = run_with(tmp_path, ("pii", start, start + 19, "<EMAIL>", "pii_email"))
    html = str(edits.sections(run, manifests)[0].body)
    assert "pii_email" in html
    assert "someone" not in html


def test_a_run_without_edits_has_no_such_section(tmp_path):
    assert edits.sections(*run_with(tmp_path)) == []
