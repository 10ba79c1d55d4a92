"""conf/real on the real sets, where they lie beside the checkout; skipped where they do not."""

import hashlib
import json
from pathlib import Path

import pytest

from mixloom.mixers.mixture import Mixture
from mixloom.pipeline.config import load_config
from mixloom.pipeline.console import Console
from mixloom.pipeline.integrity import verify_shards
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.status import run_status
from mixloom.trainers.recipe import RunConfig, TrainRecipe, run_recipe, train_recipe

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real sets do not lie beside this checkout")

# Everything as in the configuration, but for a short fit of the image codec.
QUICK = (f"data_root={DATA}", "tokenizer.image.steps=60")


def run(where: Path, *overrides: str) -> RunDirectory:
    config = load_config(
        RunConfig, ROOT / "conf" / "real" / "shared.yaml", (f"run_dir={where}", *QUICK, *overrides)
    )
    run_recipe(config, Console(quiet=True))
    return RunDirectory(str(where))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return run(tmp_path_factory.mktemp("real") / "one")


def hashes(run: RunDirectory) -> dict[str, str]:
    files = [n for n in run.store.names("shards") if n.endswith(".tar")]
    return {n: hashlib.sha256(run.store.read(f"shards/{n}")).hexdigest() for n in files}


def test_every_document_of_the_real_sets_is_accounted_for(real):
    stages = run_status(real)
    assert all(s.state == "finished" and s.counts.conserved for s in stages)
    ingest = stages[0].counts
    assert ingest.documents_in > 10_000
    assert ingest.kept > 0.99 * ingest.documents_in
    assert stages[-2].counts.kept > 0.97 * ingest.kept  # the sets are clean: rules and dedup take little


def test_all_modalities_and_sources_reach_the_shards_and_the_shards_are_whole(real):
    manifest = verify_shards(real.store.url("shards"))
    assert all(manifest.totals.tokens_by_modality[m] > 1000 for m in ("text", "image", "speech"))
    named = {s.name for s in load_config(RunConfig, ROOT / "conf" / "real" / "shared.yaml").sources}
    assert set(manifest.totals.tokens_by_source) == named
    assert Mixture.load(real.store.root).effective_domains > 10


def test_two_workers_write_the_same_shards(real, tmp_path):
    assert hashes(run(tmp_path / "two", "workers=2")) == hashes(real)


def test_a_model_trains_on_the_result(real):
    overrides = (
        f"run_dir={real.store.root}",
        "train.steps=6",
        "model.dim=32",
        "model.layers=1",
        "model.heads=2",
    )
    config = load_config(
        TrainRecipe, ROOT / "conf" / "real" / "train.yaml", (*overrides, "train.warmup=2", "train.threads=1")
    )
    train_recipe(config, Console(quiet=True))
    lines = real.store.read("train/metrics.jsonl").decode().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < losses[0]
