"""The sections of a report: hostile data stays text, figures add up, and nothing to show is said."""

import re

import numpy as np
import pytest
from PIL import Image

from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.manifest import ShardEntry, build_manifest
from mixloom.pipeline.report.decoded import (
    DecodedContext,
    DecodedDocument,
    DecodedPiece,
    decoded_section,
)
from mixloom.pipeline.report.domains import (
    DomainFacts,
    MapPoint,
    domain_sections,
    purity,
)
from mixloom.pipeline.report.funnel import SourceFacts, StageFacts, breaks, by_source, funnel
from mixloom.pipeline.report.markup import clean, markup
from mixloom.pipeline.report.media import Budget, clip, pixels, thumbnail
from mixloom.pipeline.report.overview import Totals, overview, truth_section
from mixloom.pipeline.report.page import Section, page
from mixloom.pipeline.report.samples import (
    Piece,
    ReasonSamples,
    Reject,
    Sample,
    dropped_samples,
    excerpt,
    kept_samples,
)
from mixloom.pipeline.report.tables import Column, facts, table
from mixloom.pipeline.report.tokens import MixtureRow, mixture_section, token_sections
from mixloom.pipeline.report.training import Ends, training_section

ID = "0123456789abcdef" * 2


def stage(name, n, dropped=None, failed=None, media=None, state="finished", kept=None):
    gone = sum((dropped or {}).values()) + sum((failed or {}).values())
    counts = Counts(n, n - gone if kept is None else kept, dropped or {}, failed or {}, media or {})
    return StageFacts(name, state, counts, 1.5)


STAGES = [
    stage("ingest", 1000, failed={"broken_gzip": 10}, media={"truncated_image": 3}),
    stage("filter", 990, dropped={"symbol_noise": 30, "few_vowels": 60}),
    stage("dedup_exact", 900, dropped={"exact_duplicate": 100}),
    StageFacts("tokenizer", "finished", Counts(), 9.0),
]


def sample(text, **more):
    picture = Piece("image", picture=thumbnail(Image.new("RGB", (8, 8)), text), note=text)
    sound = Piece("speech", clip=clip(np.zeros(80, np.float32), 16_000, text), note=text)
    pieces = (Piece("text", text[:1401], len(text)), picture, sound)
    return Sample(ID, text[:200], text[:500], pieces, 9, ((text[:50], text[:50]),), **more)


def figures(tree, caption):
    """Rows of the table whose caption begins so, as text."""
    (found,) = [t for t in tree.xpath("//table") if t.xpath("string(caption)").startswith(caption)]
    return [[c.text_content() for c in row.xpath("th|td")] for row in found.xpath(".//tbody/tr|.//tfoot/tr")]


def test_the_funnel_shows_every_reason_and_its_figures_add_up(audit):
    tree = audit(markup(funnel(STAGES)))
    rows = figures(tree, "Reasons")
    assert ["filter", "dropped", "few_vowels", "60", "6.1%"] in rows
    documents = [int(r[3]) for r in rows if r[1] in ("dropped", "failed")]
    assert 1000 - sum(documents) == 800
    assert "1,000 documents in; 200 dropped or failed; 800 left" in tree.text_content()
    widths = [
        sum(float(r.get("width")[:-1]) for r in bar.xpath(".//rect"))
        for bar in tree.xpath("//ol[@class='funnel']//svg")
    ]
    assert widths == pytest.approx([100.0, 99.0, 90.0])


def test_stages_in_a_row_that_lose_nothing_share_a_row_of_the_funnel(audit):
    stages = [*STAGES[:3], stage("embed", 800), stage("cluster", 800), stage("order", 800)]
    rows = audit(markup(funnel(stages))).xpath("//span[@class='stage']/text()")
    assert rows == ["ingest", "filter", "dedup_exact", "embed to order"]
    rows = audit(markup(funnel([*stages, stage("tokenize", 800, failed={"broken": 1})]))).xpath(
        "//span[@class='stage']/text()"
    )
    assert rows[-2:] == ["embed to order", "tokenize"]


def test_stages_that_no_document_passes_are_not_in_the_funnel(audit):
    assert "tokenizer" not in audit(markup(funnel(STAGES))).text_content()
    assert funnel([STAGES[-1]]) is None


def test_a_broken_balance_is_named_and_a_whole_one_is_not():
    assert breaks(STAGES) == []
    lost = [STAGES[0], stage("filter", 980), stage("dedup_exact", 980, {"exact_duplicate": 5}, kept=970)]
    assert breaks(lost) == ["990 left ingest, 980 entered filter", "dedup_exact: 980 in, 975 accounted for"]


def test_a_stage_still_running_breaks_no_balance():
    assert breaks([STAGES[0], stage("filter", 200, state="running"), stage("later", 7)]) == []


def test_documents_by_source_add_up_in_the_order_of_the_run(audit):
    sources = [SourceFacts("a", 10, {"filter": 2}), SourceFacts("b", 5, {"ingest": 1})]
    rows = figures(audit(markup(by_source(sources, ["ingest", "filter"]))), "Documents by source")
    assert rows == [
        ["a", "10", "\u2013", "2", "8", "80.0%"],
        ["b", "5", "1", "\u2013", "4", "80.0%"],
        ["all sources", "15", "1", "2", "12", "80.0%"],
    ]


def test_the_overview_says_whether_documents_are_conserved(audit):
    totals = Totals(8, 230, 10**6, {"text": 70, "image": 20, "speech": 0})
    text = audit(markup(overview(STAGES, totals, [s.name for s in STAGES]))).text_content()
    assert "conserved: yes" in text
    assert "not finished" not in text
    lost = [STAGES[0], stage("filter", 980)]
    text = audit(markup(overview(lost, None, ["ingest", "filter", "shards"]))).text_content()
    assert "conserved: NO" in text
    assert "Still to do: shards" in text


def test_planted_truth_shows_its_headlines_and_everything(audit):
    tree = audit(
        markup(truth_section({"exact_duplicate_recall": 1.0, "near_pairs": 67, "domain_purity": 0.98051}))
    )
    assert tree.xpath("//dl//dt/text()") == ["exact duplicate recall", "domain purity"]
    assert ["near pairs", "67"] in figures(tree, "Everything")


def test_an_overview_of_nothing_is_still_an_overview(audit):
    audit(markup(overview([], None, [])))


def test_hostile_stages_and_truth_stay_text(hostile, audit):
    stages = [stage(hostile, 10, {hostile: 1}, {hostile + "2": 1}, {hostile: 2}, state="interrupted")]
    audit(markup([funnel(stages), by_source([SourceFacts(hostile, 3, {hostile: 1})])]))
    audit(markup(overview(stages, None, [hostile])))
    audit(markup(truth_section({hostile: hostile, "purity": 0.91234})))


def test_hostile_documents_stay_text(hostile, audit):
    tree = audit(markup(kept_samples([sample(hostile)], Budget(10**6))))
    assert "and 6 more segments" in tree.text_content()
    assert len(tree.xpath("//img")) == len(tree.xpath("//audio")) == 1


def test_hostile_rejects_stay_text(hostile, audit):
    failed = Reject(ID, hostile, hostile, "failed", "document", detail=hostile)
    dropped = Reject(
        ID, "s", "p", "dropped", "document", 0.123456, 0.5, "", sample(hostile), sample(hostile + "x")
    )
    groups = [
        ReasonSamples(hostile, hostile, "failed", 5, (failed,)),
        ReasonSamples("filter", "few_vowels", "dropped", 1, (dropped,)),
    ]
    tree = audit(markup(dropped_samples(groups, Budget(10**6))))
    assert "0.123 (limit 0.5)" in tree.text_content()
    assert "kept in its place" in tree.text_content()
    assert "and 4 more in" in tree.text_content()


def test_a_long_text_is_cut_and_its_length_told(audit):
    tree = audit(excerpt("<w> " * 400, 1_000_000))
    assert "1,000,000 characters" in tree.text_content()
    assert len(tree.text_content()) < 2500
    assert "blank text, 3 characters" in audit(excerpt(" \n ", 3)).text_content()


def test_words_that_a_near_duplicate_changed_are_marked(audit):
    ours, theirs = "the quick brown fox jumps", "the quick red fox jumps high"
    assert audit(excerpt(ours, len(ours), other=theirs)).xpath("//mark/text()") == ["brown"]
    assert audit(excerpt(theirs, len(theirs), other=ours)).xpath("//mark/text()") == ["red", "high"]
    assert not audit(excerpt(ours, len(ours), other=ours)).xpath("//mark")


def test_hostile_domains_stay_text(hostile, audit):
    domain = DomainFacts(13, 1234, (hostile, "x"), {hostile: 7}, (hostile,))
    points = [MapPoint(0.0, 1.0, 13, hostile), MapPoint(1.0, 0.0, 13, "other")]
    tree = audit(markup(domain_sections([domain], points, {hostile: {hostile: {13: 5}}})))
    assert "1,234" in tree.text_content()
    [figure] = tree.xpath("//figure[@data-points]")
    assert len(figure.get("data-points").split()) == 2 * 4
    assert len(figure.get("data-texts").split("\n")) == 2


def test_purity_is_the_share_of_the_commonest_label_of_each_domain():
    assert purity({"a": {0: 8, 1: 1}, "b": {0: 2, 1: 9}}) == pytest.approx(17 / 20)
    assert purity({}) == 0.0


def manifest(name="domain-000", source="prose"):
    entry = ShardEntry(
        name=f"{name}-00000-of-00001.tar",
        domain=name,
        sha256="0" * 64,
        bytes=4096,
        contexts=2,
        documents=3,
        tokens=100,
        tokens_by_modality={"text": 60, "image": 40, "speech": 0},
        tokens_by_source={source: 100},
    )
    ranges = [
        {"name": "special", "start": 0, "size": 256, "used": 96, "modality": 0},
        {"name": "text", "start": 256, "size": 1024, "used": 1000, "modality": 0},
    ]
    return build_manifest([entry], {"size": 1280, "dtype": "uint16", "ranges": ranges}, seq_len=64)


def test_tokens_show_modalities_vocabulary_and_codecs(audit):
    body = token_sections(manifest(), 240, {"text": {"size": 1000, "fitted_on": 12}, "image": {"size": 0}})
    tree = audit(markup(body))
    assert ["text", "256 to 1,279", "1,024", "1,000"] in figures(tree, "Vocabulary")
    assert ["fitted on", "12"] in figures(tree, "Tokenizers")
    assert "Bytes of text per text token4" in tree.text_content()
    assert tree.xpath("//rect[@class='m-image']/title/text()") == ["image 40"]


def test_hostile_names_of_domains_sources_and_codecs_stay_text(hostile, audit):
    safe = re.sub("[\ud800-\udfff]", "", hostile)  # JSON of the manifest cannot hold these
    codecs = {"text": {"size": 3, "kind": hostile}}
    audit(markup(token_sections(manifest(safe, safe), None, codecs)))
    rows = [MixtureRow(hostile, 100, 1.0, 2.0, 4.0, True)]
    audit(markup(mixture_section(rows, hostile, 200, [hostile])))


def record(step, **more):
    losses = {"text": 8.0 / step, "image": None if step % 2 else 7.0 / step}
    base = {"step": step, "steps": 20, "loss": 8.0 / step, "loss_by_modality": losses, "lr": 1e-3}
    return {**base, "tokens": 100, "tokens_per_second": 50.0, "seconds": 2.0, **more}


def test_training_shows_curves_and_both_ends(audit):
    records = [record(s) for s in range(1, 21)]
    ends = Ends(10, {"all": 8.0, "text": 8.0, "image": None}, {"all": 4.0, "text": 0.5, "image": None})
    tree = audit(markup(training_section(records, ends)))
    assert figures(tree, "Loss at both ends") == [
        ["all", "8", "4", "-4"],
        ["text", "8", "0.5", "-7.5"],
        ["image", "\u2013", "\u2013", "\u2013"],
    ]
    assert "20 of 20" in tree.text_content()
    assert len(tree.xpath("//svg[@role='img']")) == 3


@pytest.mark.parametrize(
    "records", [[record(1)], [record(1, loss_by_modality={})], [{"step": 1, "eval_loss": {"all": 2.0}}]]
)
def test_a_training_of_one_step_is_shown(records, audit):
    audit(markup(training_section(records, None)))


def test_no_training_is_nothing():
    assert training_section([], None) == []


def test_hostile_modalities_stay_text(hostile, audit):
    audit(markup(training_section([record(1, loss_by_modality={hostile: 1.0})], Ends(1, {hostile: 1.0}, {}))))


def test_decoded_contexts_show_boundaries_and_media_beside_their_originals(hostile, audit):
    drawn = pixels(np.zeros((4, 4, 3), np.uint8), hostile)
    sound = clip(np.zeros(80, np.float32), 16_000, hostile)
    pieces = (
        DecodedPiece("text", 3, hostile),
        DecodedPiece("image", 64, picture=drawn, original_picture=drawn, note=hostile),
        DecodedPiece("speech", 9, clip=sound),
        DecodedPiece("speech", 7, note="not decoded"),
    )
    documents = (
        DecodedDocument(ID, hostile, 80, 0, pieces, 4, 2),
        DecodedDocument(ID, "s", 5, 17, (DecodedPiece("text", 5, "rest"),)),
    )
    tree = audit(
        markup(decoded_section([DecodedContext(hostile, 3, hostile, 90, 128, documents, 1)], Budget(10**6)))
    )
    assert tree.xpath("//*[@class='sentinel']/text()") == [
        "<doc>",
        "<image> 64 codes </image>",
        "<speech> 9 codes </speech>",
        "<speech> 7 codes </speech>",
        "continued",
    ]
    assert len(tree.xpath("//img")) == 2
    assert len(tree.xpath("//audio")) == 1
    assert "not decoded" in tree.text_content()
    assert "not at hand" not in tree.text_content()
    assert "3 documents" in tree.text_content()
    assert "document 4, 80 tokens" in tree.text_content()
    assert "and 2 more segments" in tree.text_content()


def test_the_page_runs_only_its_own_script_and_asks_for_nothing(hostile, audit):
    section = Section("first", hostile, table(hostile, [Column(hostile)], [[hostile]], [hostile]), hostile)
    made = page(hostile, hostile, [section, Section("second", "Second", facts([(hostile, hostile)]))])
    tree = audit(made, scripts=1)
    policy = tree.xpath("//meta[@http-equiv]/@content")[0]
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"url\(|@import|https?://", tree.xpath("//style")[0].text)
    assert not re.search(r"innerHTML|eval|fetch|https?://", tree.xpath("//script")[0].text)
    assert len(tree.xpath("//style")) == 1


def test_the_policy_names_the_hashes_of_exactly_what_is_on_the_page(audit):
    import base64
    import hashlib

    made = page("t", "s", [])
    policy = audit(made, scripts=1).xpath("//meta[@http-equiv]/@content")[0]
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", made, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy


def test_headings_come_in_order_and_contents_lead_to_sections(audit):
    made = page("Run", "now", [Section("a", "A", "x"), Section("b", "B", "y")])
    tree = audit(made, scripts=1)
    assert [h.tag for h in tree.xpath("//h1|//h2")] == ["h1", "h2", "h2"]
    targets = {a[1:] for a in tree.xpath("//nav//a/@href")}
    assert targets == {"a", "b"} <= set(tree.xpath("//@id"))
    assert tree.xpath("//h1/text()") == ["Run"]
    assert tree.get("lang") == "en"


def test_a_row_of_another_length_than_the_head_is_refused():
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        table("t", [Column("a")], [["x", "y"]])


def test_every_colour_that_is_used_is_defined():
    from mixloom.pipeline.report import domains, funnel, page, training

    css = (page._HERE / "page.css").read_text()
    used = [f"c{i}" for i in range(domains.COLORS)] + [f"drop{i}" for i in range(funnel.DROPS)]
    used += [*training.COLORS.values(), funnel.KEPT, funnel.FAILED, "plain", "m-text"]
    for name in used:
        assert re.search(rf"\.{name} \{{ --mine", css), name
    assert clean(css) == css
