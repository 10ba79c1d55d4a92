"""Configuration errors are read by people: the text of each is tested."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixloom.pipeline.config import apply_overrides, load_config, read_yaml
from mixloom.pipeline.errors import UserError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Inner(Strict):
    threshold: float = Field(0.8, ge=0, le=1)


class Cat(Strict):
    format: Literal["cat"]
    name: str
    lives: int = Field(9, ge=1, description="how many")


class Dog(Strict):
    format: Literal["dog"]
    name: str
    tricks: list[str] = []
    cat: Inner | None = None  # a key called like the tag of the other kind


class Config(Strict):
    run_dir: str
    workers: int = 1
    inner: Inner = Inner()
    maybe: Inner | None = None
    pets: list[Annotated[Cat | Dog, Field(discriminator="format")]] = []

    @model_validator(mode="after")
    def _few(self):
        if len(self.pets) > self.workers:
            raise ValueError("pets are more than workers; hire some")
        return self


def load(tmp_path, text, *overrides):
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(Config, file, overrides)


def error(tmp_path, text, *overrides):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value)


def test_a_misspelt_key_names_the_key_the_allowed_ones_and_the_nearest(tmp_path):
    message = error(tmp_path, "run_dir: x\nworker: 2\n")
    assert "unknown key 'worker' (did you mean 'workers'?)" in message
    assert "use one of: inner, maybe, pets, run_dir, workers" in message


def test_a_misspelt_key_inside_a_section_is_named_with_its_path(tmp_path):
    message = error(tmp_path, "run_dir: x\ninner: {treshold: 0.5}\n")
    assert "unknown key 'inner.treshold' (did you mean 'threshold'?)" in message
    assert "unknown key 'maybe.tresh'" in error(tmp_path, "run_dir: x\nmaybe: {tresh: 0.5}\n")


def test_a_misspelt_key_of_a_list_item_is_named_by_the_items_name_and_allows_only_its_kind(tmp_path):
    message = error(tmp_path, "run_dir: x\npets:\n- {format: cat, name: tom, live: 3}\n")
    assert "unknown key 'pets.tom.live' (did you mean 'lives'?)" in message
    assert "use one of: format, lives, name" in message


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    message = error(tmp_path, "run_dir: x\npets:\n- {format: dgo, name: rex}\n")
    assert "'pets.rex.format' is 'dgo' (did you mean 'dog'?)" in message
    assert "use one of: cat, dog" in message


def test_a_missing_key_and_a_value_out_of_range_are_told_together(tmp_path):
    message = error(tmp_path, "inner: {threshold: 1.5}\n")
    assert "the key 'run_dir' is missing" in message
    assert "'inner.threshold' is 1.5: input should be less than or equal to 1" in message


def test_a_key_given_twice_is_an_error_with_its_line(tmp_path):
    assert "line 2: the key 'run_dir' is given twice" in error(tmp_path, "run_dir: x\nrun_dir: y\n")


def test_broken_yaml_is_told_with_line_and_column(tmp_path):
    assert "c.yaml, line 3, column 1: not valid YAML" in error(tmp_path, "run_dir: x\nworkers: [1,\n")


def test_a_missing_file_lists_what_lies_beside_it(tmp_path):
    (tmp_path / "demo.yaml").write_text("run_dir: x\n")
    with pytest.raises(UserError, match=r"does not exist.*demo\.yaml") as caught:
        load_config(Config, tmp_path / "demoo.yaml")
    assert "did you mean 'demo.yaml'?" in str(caught.value)


def test_a_list_at_the_top_is_refused(tmp_path):
    assert "holds list, not 'key: value' lines" in error(tmp_path, "- a\n- b\n")


def test_what_is_wrong_between_keys_is_told_as_it_was_written(tmp_path):
    text = "run_dir: x\npets:\n- {format: cat, name: tom}\n- {format: dog, name: rex}\n"
    assert error(tmp_path, text).startswith(f"{tmp_path}/c.yaml: pets are more than workers; hire some\n")


def test_a_number_where_text_belongs_is_told_how_to_become_text(tmp_path):
    assert 'put it in quotes: "2024"' in error(tmp_path, "run_dir: 2024\n")


def test_a_file_that_cannot_be_text_or_cannot_be_read_is_told_with_its_name(tmp_path):
    assert r"c.yaml: not valid YAML: unacceptable character" in error(tmp_path, "run_dir: a\0b\n")
    (tmp_path / "c.yaml").write_bytes(b"run_dir: \xff\n")
    with pytest.raises(UserError, match=r"c\.yaml: not UTF-8 text \(byte 9\)"):
        load_config(Config, tmp_path / "c.yaml")
    with pytest.raises(UserError, match="is a folder, not a configuration file"):
        load_config(Config, tmp_path)
    with pytest.raises(UserError, match=r"c\.yaml/d\.yaml cannot be read: Not a directory"):
        load_config(Config, tmp_path / "c.yaml" / "d.yaml")


def test_a_key_that_is_a_list_is_broken_yaml(tmp_path):
    assert "line 2, column 3: not valid YAML: found unhashable key" in error(
        tmp_path, "run_dir: x\n? [a]\n: b\n"
    )


def test_overrides_reach_nested_keys_and_list_items_by_name(tmp_path):
    text = "run_dir: x\npets:\n- {format: cat, name: tom}\n"
    config = load(
        tmp_path, text, "workers=3", "inner.threshold=0.5", "pets.tom.lives=7", "maybe.threshold=0.1"
    )
    assert (config.workers, config.inner.threshold, config.pets[0].lives) == (3, 0.5, 7)
    assert config.maybe is not None
    assert config.maybe.threshold == 0.1


def test_an_override_of_an_unknown_list_item_names_the_known_ones(tmp_path):
    message = error(tmp_path, "run_dir: x\npets:\n- {format: cat, name: tom}\n", "pets.tim.lives=7")
    assert "there is no item 'tim' (did you mean 'tom'?)" in message


def test_an_override_without_a_value_says_how_to_write_one():
    with pytest.raises(UserError, match="write key=value"):
        apply_overrides({}, ["workers"])


def test_yaml_cannot_construct_python_objects():
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml("a: !!python/object/apply:os.system ['true']\n", "c.yaml")
