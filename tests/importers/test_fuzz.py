"""Settings files that nobody meant to write: no traceback, an error that names the key, nothing smuggled in."""

import json
import shlex
from functools import cache

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from loralab.errors import UserError
from loralab.importers.conversion import read
from loralab.importers.recognition import NAMES
from loralab.importers.rules.folders import DATA, FOLDER
from loralab.schema.quoting import as_text, to_paste
from loralab.schema.settings import written
from loralab.tools.settings import lines

PARSER = OverridesParser.create()

quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

letters = st.one_of(st.sampled_from("\\'\"${}[](),:= ~#%&;|<>!*?\n\r\t\0./-+aTN01e_\u2028é"), st.characters())
odd_text = st.text(letters, max_size=20)
odd_words = st.sampled_from(["", "0", "0.0", "None", "true", "???", "${seed}", "a=b", "1,2", "_target_"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), odd_text, odd_words)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(odd_text, inner, max_size=3)),
    max_leaves=6,
)


def reading(tmp_path, text, name="settings.json"):
    """(what a file of this text becomes, None) or (None, the user's error in words); anything else is a bug."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf8", "surrogatepass"))
    try:
        found = read(path)
    except UserError as error:
        return None, str(error)
    for line in found.overrides:
        assert "${" not in line
        assert not override(line).is_sweep_override()
        assert not override(line).is_delete()
    json.dumps(found.as_json())
    return found, None


@cache
def override(line):
    """One line as Hydra reads it."""
    return PARSER.parse_overrides([line])[0]


plain = st.recursive(
    scalars.filter(lambda value: value == value and "${" not in str(value)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)


@quick
@example(value="\\\n")
@given(value=plain)
def test_a_value_survives_the_shell_and_the_grammar_of_overrides(value):
    (typed,) = shlex.split(to_paste(f"a={written(value)}"))
    read = OmegaConf.to_container(OmegaConf.create({"a": override(typed).value()}))
    assert repr(read) == repr({"a": value})


@quick
@example(text="\\\n")
@given(text=odd_text.filter(lambda text: "${" not in text))
def test_what_the_grammar_cannot_parse_is_taken_as_the_text_that_it_is(text):
    """The remedy that a message shows for such a value."""
    if meant := as_text(f"a={text}"):
        assert override(meant.input_line).value() == text


@quick
@pytest.mark.parametrize("dialect", ["old-json", "kohya-gui", "lora-metadata"])
@given(data=st.data())
def test_any_value_of_any_key_is_taken_or_is_an_error_that_names_the_key(tmp_path, dialect, data):
    known = {
        "old-json": ("net_dim", 4),
        "kohya-gui": ("LoRA_type", "Standard"),
        "lora-metadata": ("ss_network_dim", "4"),
    }
    key = data.draw(st.sampled_from(sorted(set(NAMES[dialect]) - {"loralab"})))
    content = dict([known[dialect], (key, data.draw(anything))])
    found, error = reading(tmp_path, json.dumps(content))
    other = error and "which is not supported" in error  # the value may be what tells another program's file
    assert other or key in error if error else found.dialect == dialect


def test_a_bad_argument_is_named(tmp_path):
    _, error = reading(tmp_path, "network_dim = 4\nnetwork_args.algo = inf\n", "settings.toml")
    assert "network_args.algo" in error


@quick
@given(data=st.data())
def test_any_value_in_a_toml(tmp_path, data):
    key = data.draw(st.sampled_from(sorted(set(NAMES["sd-scripts-toml"]) - {"network_dim"})))
    value = data.draw(st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False), odd_text))
    assume(not isinstance(value, str) or value.isprintable())
    written_value = json.dumps(value).replace("Infinity", "inf")
    found, error = reading(tmp_path, f"network_dim = 4\n[section]\n{key} = {written_value}\n", "settings.toml")
    assert key in error if error else found.dialect == "sd-scripts-toml"


@quick
@given(
    place=st.sampled_from(["general", "dataset", "subset"]),
    key=st.sampled_from(sorted([*FOLDER, *DATA, "_target_", "subsets", "x y", "Flip_aug"])),
    value=anything,
)
def test_any_value_in_a_dataset_configuration(tmp_path, place, key, value):
    general, dataset, subset = {}, {}, {"image_dir": "/images"}
    {"general": general, "dataset": dataset, "subset": subset}[place][key] = value
    content = {"general": general, "datasets": [{"subsets": [subset], **dataset}]}
    found, error = reading(tmp_path, json.dumps(content))
    assert key in error or "datasets" in error if error else found.dialect == "sd-scripts-dataset"


@quick
@given(words=st.lists(st.one_of(st.sampled_from(sorted(NAMES["command-line"])), odd_text, odd_words), max_size=6))
def test_any_command_line(tmp_path, words):
    found, error = reading(tmp_path, "train_network.py --network_dim 4 " + " ".join(words), "train.txt")
    assert found or error


@quick
@given(content=st.binary(max_size=60))
@example(b"")
@example(b"\xff\xfe{\x00}\x00")
@example(b"\x08\0\0\0\0\0\0\0{}      ")
@example(b"\x00\x01\0\0\0\0\0\0{")
@example(b"[" * 20000)
@example(b'{"a":' * 20000)
@example(b'{"net_dim": ' + b"9" * 6000 + b"}")
@example(b'{"net_dim": 1e999}')
@example(b'{"net_dim": NaN}')
@example(b'{"net_dim": "\\ud800", "change_output_name": "\\ud800"}')
@example(b"--network_dim")
@example(b"network_dim = {a = 1}")
@example(b"[[datasets]]\nsubsets = 3")
@example(b"general = 3\n[[datasets]]\n")
def test_any_bytes(tmp_path, content):
    found, error = reading(tmp_path, content)
    assert found or error


@quick
@given(
    section=st.fixed_dictionaries({}, optional={"choices": anything, "values": anything}),
    key=st.sampled_from(["optimizer._target_", "hydra.run.dir", "a.b", "model.base", "_target_"]),
    value=anything,
)
def test_our_own_section_is_not_trusted_either(tmp_path, section, key, value):
    if isinstance(section.get("values"), dict):
        section["values"][key] = value
    found, error = reading(tmp_path, json.dumps({"net_dim": 4, "loralab": section}))
    assert error is None or "loralab" in error
    for line in found.overrides if found else ():
        assert "_target_" not in line.partition("=")[0]
        assert not line.startswith("hydra")


@quick
@given(key=odd_text, value=odd_text)
@example(key="x\nrm -rf ~", value="$(rm -rf ~)")
def test_nothing_printed_can_be_obeyed_by_a_shell(tmp_path, key, value):
    content = {"net_dim": 4, "training_comment": value, "vae": "a b", key: value}
    found, _ = reading(tmp_path, json.dumps(content))
    assume(found is not None)
    printed = "\n".join(lines(found)).replace("\r", "\n")
    assert shlex.split(printed, comments=True) == [line.replace("\r", "\n") for line in found.overrides]
