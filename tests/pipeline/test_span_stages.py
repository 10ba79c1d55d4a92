"""What the stages `pii` and `noise` do to texts: spans, drops, and counts that never hold a value."""

import pyarrow as pa

from mixloom.pipeline.noise_config import NoiseConfig
from mixloom.pipeline.pii_config import PiiConfig, PiiRule
from mixloom.pipeline.span_stages import find_noisy, find_personal

TEXTS = pa.array(
    [
        "Write to a.b@some-site.org or c.d@some-site.org today.",
        "Nothing here.",
        None,
        "One: x.y@some-site.org",
    ],
    pa.large_string(),
)


def test_what_is_masked_is_counted_and_the_rest_stays():
    spans, dropped, info = find_personal(TEXTS, PiiConfig())
    assert spans.column("document").to_pylist() == [0, 0, 3]
    assert set(spans.column("replacement").to_pylist()) == {"<EMAIL>"}
    assert dropped.num_rows == 0
    assert info == {"found": {"email": 3}}


def test_a_document_with_too_many_is_dropped_and_the_ledger_holds_their_number():
    config = PiiConfig(email=PiiRule(action="mask", max_count=1))
    _, dropped, info = find_personal(TEXTS, config)
    assert dropped.to_pylist() == [
        {"row": 0, "reason": "pii_email", "value": 2.0, "limit": 1.0, "detail": None}
    ]
    assert "some-site" not in repr(dropped.to_pylist()) + repr(info)


def test_noise_is_found_and_drops_nothing():
    noise = "".join(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(i * i * 37 + i * 11) % 64]
        for i in range(400)
    )
    texts = pa.array([f"Some words before it.\n{noise}\nAnd some after it."], pa.large_string())
    spans, dropped, _ = find_noisy(texts, NoiseConfig())
    assert spans.column("reason").to_pylist() == ["noise_base64"]
    assert dropped.num_rows == 0
