"""Loading of manifests: values arrive unchanged, and mistakes are refused with file and line."""

from __future__ import annotations

import json
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.load import Manifest, load, schema
from manifests.schedule import VisionShare


@schema
class Cut:
    RENAMED: ClassVar[dict[str, str]] = {"place": "at", "length": "write `at`, the number of words that stay"}

    kind: Literal["cut"]
    at: int = 1


@schema
class Keep:
    kind: Literal["keep"]
    share: float


@schema
class Oven:
    RENAMED: ClassVar[dict[str, str]] = {"heat": "degrees"}

    degrees: tuple[int, ...] = ()


@schema
class Recipe:
    name: str
    oven: str | tuple[str, ...] | Oven = ""
    ovens: dict[str, Oven] = field(default_factory=dict)
    out: str = ""
    vision: VisionShare = VisionShare()
    ops: tuple[Annotated[Cut | Keep, pydantic.Field(discriminator="kind")], ...] = ()
    weights: dict[str, float] = field(default_factory=dict)


def read(folder: Path, *texts: str, sets: tuple[str, ...] = ()) -> Manifest[Recipe]:
    files = []
    for number, text in enumerate(texts):
        file = folder / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        files.append(file)
    return load(Recipe, files, sets)


def refusal(folder: Path, *texts: str, sets: tuple[str, ...] = ()) -> str:
    with pytest.raises(ManifestError) as caught:
        read(folder, *texts, sets=sets)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(folder), "")


plain_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])).filter(
    lambda text: not text.startswith(("./", "../"))
)
ops = st.one_of(
    st.builds(Cut, kind=st.just("cut"), at=st.integers(-(2**63), 2**63)),
    st.builds(Keep, kind=st.just("keep"), share=st.floats(allow_nan=False, allow_infinity=False)),
)
recipes = st.builds(
    Recipe,
    name=plain_text,
    vision=st.builds(VisionShare, constant=st.integers(0, 999_999).map(lambda n: n / 10**6)),
    ops=st.lists(ops, max_size=4).map(tuple),
    weights=st.dictionaries(plain_text, st.floats(allow_nan=False, allow_infinity=False), max_size=4),
)


@given(recipe=recipes, flow=st.booleans())
def test_a_manifest_dumped_as_yaml_or_json_loads_again(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, flow: bool
) -> None:
    folder = tmp_path_factory.mktemp("dump")
    data = json.loads(json.dumps(asdict(recipe)))
    from_yaml = read(folder, yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True))
    from_json = read(folder, json.dumps(data, ensure_ascii=False))
    assert from_yaml.value == from_json.value == recipe
    assert from_yaml.digest == from_json.digest


def test_the_digest_ignores_order_and_comments_but_no_value(tmp_path: Path) -> None:
    one = read(tmp_path, "name: a\nvision: {constant: 0.2}\n")
    same = read(tmp_path, "# a comment\nvision:\n    constant: 0.2\nname: 'a'\n")
    other = read(tmp_path, "name: a\nvision: {constant: 0.3}\n")
    assert one.digest == same.digest != other.digest


def test_a_renamed_key_in_a_union_or_a_map_is_refused_with_its_new_name(tmp_path: Path) -> None:
    assert refusal(tmp_path, "name: a\noven:\n  heat: [3]").startswith("/0.yaml:3: oven.heat is now called degrees")
    text = refusal(tmp_path, "name: a\novens:\n  one: {degrees: [3]}\n  two: {heat: [3]}")
    assert text.startswith("/0.yaml:4: ovens.two.heat is now called degrees")
    assert read(tmp_path, "name: a\noven: {degrees: [3]}").value.oven == Oven(degrees=(3,))
    assert "oven.hate is not a known key" in refusal(tmp_path, "name: a\noven: {hate: 3}")


@pytest.mark.parametrize(
    ("key", "message", "fix"),
    [
        ("place: 3", "ops.1.place is now called at", "write at"),
        ("length: 3", "ops.1.length does not exist any more", "write `at`, the number of words that stay"),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(tmp_path: Path, key: str, message: str, fix: str) -> None:
    text = refusal(tmp_path, f"name: a\nops:\n- {{kind: cut}}\n- kind: cut\n  {key}")
    assert text.startswith(f"/0.yaml:5: {message}") and f"fix: {fix}" in text
    with pytest.raises(ManifestError, match=message) as caught:
        read(tmp_path, "name: a\nops:\n- {kind: cut}\n- {kind: cut}", sets=(f"ops.1.{key.replace(': ', '=')}",))
    assert caught.value.where == f"--set ops.1.{key.replace(': ', '=')}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nvisoin: 1", "/0.yaml:2: visoin is not a known key"),
        ("name: a\nvision:\n  constant: 0.1\n  konstant: 0.1", "/0.yaml:4: vision.konstant is not a known key"),
        ("name: a\nops:\n- {kind: cut}\n- kind: cut\n  att: 3", "/0.yaml:5: ops.1.att is not a known key"),
        ("name: a\nops:\n- {kind: trim}", "/0.yaml:3: ops.0.kind is 'trim', expected a known kind"),
        ("name: a\nops:\n- {at: 3}", "/0.yaml:3: ops.0.kind is missing"),
        ("name: a\nops: [{kind: cut, at: 1.5}]", "/0.yaml:2: ops.0.at is 1.5"),
        ("name: a\nops: [{kind: cut, at: '2'}]", '/0.yaml:2: ops.0.at is "2"'),
        ("name: a\nops:\n  - kind: keep", "/0.yaml:3: ops.0.share is missing"),
        ("name: yes", "/0.yaml:1: name is true"),
        ("vision: {}", "/0.yaml:1: name is missing"),
        ("", "/0.yaml:1: name is missing"),
        ("name: a\nvision:\n  constant: 1.5", "/0.yaml:2: vision is"),
        ("name: a\nname: b", "/0.yaml:2: key 'name' is given twice"),
        ("name: a\n1: b", "/0.yaml:2: key 1 is no text"),
        ("- name", "/0.yaml:1: expected a map"),
        ("name: a\n\tvision: 1", "/0.yaml:2: not valid YAML"),
        ("name: !!python/name:os.system x", "/0.yaml:1: not valid YAML"),
        ("name: a\nout: 2024-01-01", "/0.yaml:2: datetime.date(2024, 1, 1) is no text"),
        ("name: a\nweights: {x: .inf}", "/0.yaml:2: inf is no text or finite number"),
        ("name: &a [*a]", "/0.yaml: nested too deeply, or an alias that contains itself"),
    ],
)
def test_a_mistake_is_refused_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(expected)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.yaml: can't be read"):
        load(Recipe, [tmp_path / "nowhere.yaml"])
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ManifestError, match="not UTF-8"):
        load(Recipe, [tmp_path / "latin.yaml"])


def test_overlays_merge_maps_and_replace_everything_else(tmp_path: Path) -> None:
    base = "name: a\nweights: {x: 1.0, y: 2.0}\nops: [{kind: cut, at: 5}, {kind: cut, at: 6}]\n"
    overlaid = read(tmp_path, base, "weights: {y: 3.0, z: 4.0}\nops: [{kind: cut}]\n")
    assert overlaid.value == Recipe(name="a", weights={"x": 1.0, "y": 3.0, "z": 4.0}, ops=(Cut(kind="cut"),))
    assert overlaid.where("weights", "x").endswith("0.yaml:2") and overlaid.where("weights", "y").endswith("1.yaml:1")
    assert refusal(tmp_path, base, "\nweights: {y: no}").startswith("/1.yaml:2: weights.y is false")


def test_set_changes_values_in_maps_and_lists(tmp_path: Path) -> None:
    sets = ("vision.constant=5e-1", "ops.1.at=7", "weights={x: 2e9}", "name=*a=b: c")
    loaded = read(tmp_path, "name: a\nops: [{kind: cut}, {kind: cut}]\n", sets=sets).value
    assert loaded == Recipe(
        name="*a=b: c",
        vision=VisionShare(constant=0.5),
        ops=(Cut(kind="cut"), Cut(kind="cut", at=7)),
        weights={"x": 2e9},
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vision.konstant=1", "--set vision.konstant=1: vision.konstant is not a known key"),
        ("ops.2.at=1", "--set ops.2.at=1: '2' is not an index below 1"),
        ("ops.0.at=x", '--set ops.0.at=x: ops.0.at is "x"'),
        ("name", "--set name: expected KEY=VALUE"),
        ("ops=[*.csv]", "--set ops=[*.csv]: not valid YAML\n  fix: put texts with special signs in quotes"),
        ("weights.x=.nan", "--set weights.x=.nan: nan is no text or finite number"),
    ],
)
def test_a_mistake_in_set_is_refused_with_its_argument(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, "name: a\nops: [{kind: cut}]", sets=(text,)).startswith(expected)


def test_paths_are_relative_to_their_file_or_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "base" / "m.yaml").write_text("name: ./beside\nout: ../up/x\nvision: {}\n")
    (tmp_path / "over.yaml").write_text("out: ./stores\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    base, over = tmp_path / "base" / "m.yaml", tmp_path / "over.yaml"
    assert load(Recipe, [base]).value.out == str(tmp_path / "up" / "x")
    assert load(Recipe, [base]).value.name == str(tmp_path / "base" / "beside")
    assert load(Recipe, [base, over]).value.out == str(tmp_path / "stores")
    assert load(Recipe, [base, over], ["out=./here"]).value.out == str(tmp_path / "elsewhere" / "here")
    assert load(Recipe, [base, over], ["out=plain/name"]).value.out == "plain/name"


def test_a_map_given_with_set_replaces_lines_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @schema
    class Folders:
        read: dict[str, str]

    (tmp_path / "m.yaml").write_text("read: {raw: ./raw}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load(Folders, [tmp_path / "m.yaml"], ["read={raw: ./mine}"])
    assert loaded.value.read == {"raw": str(tmp_path / "elsewhere" / "mine")}
    assert loaded.where("read", "raw") == "--set read={raw: ./mine}"


def test_the_digest_does_not_depend_on_the_place_of_the_file(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.yaml").write_text("name: a\nout: ./stores\n")
    one, two = (load(Recipe, [tmp_path / folder / "m.yaml"]) for folder in ("one", "two"))
    assert one.digest == two.digest and one.value.out != two.value.out


def test_a_loaded_value_can_not_be_changed(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        read(tmp_path, "name: a").value.name = "b"  # type: ignore[misc]


@schema
class Nested:
    recipe: str | Recipe


def test_a_mistake_in_a_union_is_explained_by_the_closest_type(tmp_path: Path) -> None:
    file = tmp_path / "nested.yaml"
    file.write_text("recipe:\n  name: a\n  vision:\n    constant: lots\n")
    with pytest.raises(ManifestError, match=r"nested.yaml:4: recipe.vision.constant is \"lots\""):
        load(Nested, [file])
    file.write_text("recipe:\n  name: a\n  nmae: b\n")
    with pytest.raises(ManifestError, match=r"nested.yaml:3: recipe.nmae is not a known key"):
        load(Nested, [file])
    file.write_text("recipe: 3\n")
    with pytest.raises(ManifestError, match=r"nested.yaml:1: recipe is 3: input should be a valid string"):
        load(Nested, [file])
