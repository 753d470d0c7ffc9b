"""Settings: defaults, files, and the one line that a mistake gets."""

import pytest

from raydistill.errors import ConfigError
from raydistill.settings.config import Config, build_config
from raydistill.settings.sections import list_fields, read_config_file

BASE = {"data": "digits", "run_dir": "/tmp/x"}


def test_defaults_are_complete():
    config = build_config(BASE)
    assert config.search.trials == 8
    assert config.specialists.dustbin == "merged"
    assert config.ensemble.top_n == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "data: missing"),
        ({**BASE, "serch": {"trials": 3}}, "serch: unknown setting; did you mean 'search'"),
        ({**BASE, "search": {"trails": 3}}, "search.trails: unknown setting; did you mean 'search.trials'"),
        ({**BASE, "temperature": 3}, "temperature: unknown setting; did you mean 'search.temperature'"),
        ({**BASE, "search": {"trials": "many"}}, "search.trials: 'many' is not allowed"),
        ({**BASE, "search": {"trials": 0}}, "search.trials: 0 is not allowed"),
        ({**BASE, "search": {"temperature": [4, 2]}}, "search.temperature: .* LOW,HIGH"),
        ({**BASE, "search": {"label_weight": [0, 2]}}, "search.label_weight: .* LOW,HIGH"),
        ({**BASE, "search": 3}, "search: 3 is not allowed"),
        ({**BASE, "specialists": {"groups": 1}}, "specialists.groups: 1 is not allowed"),
        ({**BASE, "specialists": {"dustbin": "none"}}, "specialists.dustbin: 'none'.*'merged', 'single' or 'soft'"),
        ({**BASE, "teacher": {"seeds": 1}}, "teacher: .* is not allowed: seeds = 1 is no ensemble"),
        ({**BASE, "teacher": {"kind": "seeds"}}, "give --teacher.seeds 2 or more"),
        ({**BASE, "teacher": {"kind": "generalist", "seeds": 3}}, "leave seeds out"),
        ({**BASE, "transfer": {"share": 0}}, "transfer.share: 0 is not allowed"),
        ({**BASE, "seed": -1}, "seed: -1"),
    ],
)
def test_mistakes_are_one_line(values, told):
    with pytest.raises(ConfigError, match=told) as raised:
        build_config(values)
    assert "\n" not in str(raised.value)


def test_several_mistakes_are_counted():
    with pytest.raises(ConfigError, match="and 1 more"):
        build_config({**BASE, "seed": -1, "search": {"trials": 0}})


def test_every_field_is_described():
    def check(section):
        for name, field in section.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)
            else:
                assert field.description, f"{section.__name__}.{name}"

    check(Config)
    assert "search.trials" in list_fields(Config)


@pytest.mark.parametrize("text", ["", "- a\n- b", "a: [", "3: 4", "\x00"])
def test_files_that_are_not_mappings_are_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="config:") as raised:
        read_config_file(tmp_path / "c.yaml")
    assert "\n" not in str(raised.value)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_config_file(tmp_path / "none.yaml")
