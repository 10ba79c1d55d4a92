"""The stage `mixture`: weights from the shards' own counts, over what a training will be served."""

import pytest

from mixloom.mixers.estimate import MixtureConfig
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.stage import MixtureStage, weigh
from mixloom.mixers.stream import Stream
from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import MANIFEST_NAME, ShardManifest
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings, Stage, UnitOutput, run_stage


class Shards(Stage):
    """Stands for the stage that writes shards: takes over shards that are there."""

    name = "shards"
    version = 1

    def __init__(self, source):
        self.source = source

    def settings(self):
        return {}

    def execute(self, ctx):
        files = [ctx.directory.write_file(p.name, p.read_bytes()) for p in sorted(self.source.iterdir())]
        ctx.commit(UnitOutput("all", files=tuple(files)))


@pytest.fixture
def run(tmp_path, shards):
    directory = RunDirectory(str(tmp_path))
    do(directory, Shards(shards))
    return directory


def do(run, stage):
    manifests = {name: m for name in stage.inputs if (m := run.stage(name).manifest())}
    return run_stage(stage, run, RunSettings(), Console(quiet=True), manifests)


def test_without_a_training_the_budget_is_everything_once(run):
    manifest, _ = do(run, MixtureStage(MixtureConfig(), None))
    mixture = Mixture.load(run.store.root)
    totals = ShardManifest.load(run.stage("shards").store.root).totals
    assert mixture.budget_tokens == totals.tokens
    assert sum(mixture.weights.values()) == pytest.approx(1)
    assert manifest.info["mixture"]["weights"] == mixture.weights
    assert manifest.counts.documents_in == 0


@pytest.mark.parametrize("contexts", [1, 57, 1000])
def test_the_budget_of_a_training_is_the_real_tokens_it_is_served(run, contexts):
    manifest = ShardManifest.load(run.stage("shards").store.root)
    mixture = weigh(manifest, MixtureConfig(max_epochs=1000), contexts)
    assert mixture.budget_tokens == contexts * manifest.totals.tokens // manifest.totals.contexts
    assert mixture.budget_tokens < contexts * manifest.seq_len  # the shards of this test have padding


def test_a_small_domain_is_capped_at_its_epochs(run):
    info = do(run, MixtureStage(MixtureConfig(max_epochs=2), 100))[0].info["mixture"]
    assert info["capped"]
    assert all(info["epochs"][d] == pytest.approx(2) for d in info["capped"])


def test_other_settings_or_another_length_weigh_anew_and_the_same_do_not(run):
    assert do(run, MixtureStage(MixtureConfig(), 10))[1]
    assert not do(run, MixtureStage(MixtureConfig(), 10))[1]
    assert do(run, MixtureStage(MixtureConfig(), 11))[1]
    assert do(run, MixtureStage(MixtureConfig(max_epochs=9), 11))[1]


def test_shards_whose_manifest_was_edited_are_not_weighed(run):
    store = run.stage("shards").store
    store.write(MANIFEST_NAME, store.read(MANIFEST_NAME).replace(b'"tokens": ', b'"tokens": 1', 1))
    with pytest.raises(UserError, match=r"shards/manifest\.json has changed since it was written"):
        do(run, MixtureStage(MixtureConfig(), None))


def test_caps_hold_for_the_contexts_of_a_training_though_those_preferred_are_fuller_than_the_mean(sizes_only):
    reader = sizes_only({"full": (40, 640), "thin": (400, 3200)})
    mixture = weigh(reader.manifest, MixtureConfig(max_epochs=2), 300)
    assert mixture.capped == ("full",)
    stream = Stream(reader, mixture, seed=0, batch_contexts=10, steps=30)
    served = {e.domain: e.contexts for e in stream.exposure(30, exact=False)}
    assert sum(served.values()) == 300
    assert 70 < served["full"] <= 80
