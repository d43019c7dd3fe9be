"""Classes of detected points: the challenge's score by its own table, tables in files, names in what is detected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from scipy.spatial.distance import cdist

from pipeline.errors import InputError
from pipeline.measures.detection_classes import BUGNIST, read_classes
from pipeline.measures.detections import NO_POINTS, Point, base_name, bugnist_score, read_points
from tests.workflows.conftest import Command
from workflows.config import ComparisonConfig
from workflows.plan_comparison import open_comparison

CHALLENGE = ["sl", "bc", "ma", "gh", "ac", "bp", "bf", "cf", "bl", "ml", "wo", "pp"]


def challenge_f1(reference: list[Point], prediction: list[Point]) -> float:
    """F1 of one volume as the challenge's script forms it: numbers for classes, gp being bp; KeyError for others."""
    number = {name: n for n, name in enumerate(CHALLENGE)}
    number["gp"] = number["bp"]
    true, predicted = (np.array([number[p.category.lower()] for p in side]) for side in (reference, prediction))
    rows, columns = optimize.linear_sum_assignment(
        cdist([p.position for p in prediction], [p.position for p in reference])
    )
    matched = int((predicted[rows] == true[columns]).sum())
    precision, recall = matched / len(predicted), matched / len(true)
    return 2 * precision * recall / (precision + recall + 1e-6)


@given(seed=st.integers(0, 2**16))
def test_the_score_is_that_of_the_challenge_s_script(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides: list[list[Point]] = []
    for _ in range(2):
        words = rng.choice([*CHALLENGE, "gp", "GP", "Bp", "AC"], rng.integers(1, 12)).tolist()
        sides.append([Point("v", word, (rng.random(), rng.random(), rng.random())) for word in words])
    assert bugnist_score(sides[0], sides[1])["score"] == pytest.approx(challenge_f1(sides[0], sides[1]), abs=1e-12)


def test_gp_counts_as_bp() -> None:
    for true, predicted in (("gp", "bp"), ("BP", "gp"), ("gp", "GP")):
        sides = [[Point("a", word, (1, 1, 1))] for word in (true, predicted)]
        assert bugnist_score(sides[0], sides[1])["score"] == pytest.approx(0.9999995, abs=1e-12)
    assert bugnist_score([Point("a", "pp", (1, 1, 1))], [Point("a", "bp", (1, 1, 1))])["score"] == 0
    assert set(BUGNIST.classes) == set(CHALLENGE)


def points_file(path: Path, *rows: str) -> Path:
    path.write_text("volume,class,z,y,x\n" + "".join(f"{row}\n" for row in rows))
    return path


def test_an_unknown_class_is_named_with_its_line(here: Command, tmp_path: Path) -> None:
    true = points_file(tmp_path / "true.csv", "a,gp,1,1,1")
    wrong = points_file(tmp_path / "wrong.csv", "a,bp,1,1,1", "a,wasp,2,2,2")
    message = here("score-detections", true, wrong).failure()
    assert f"{wrong}, line 3: the class 'wasp' is none of sl, bc, ma, gh, ac, bp, bf, cf, bl, ml, wo, pp" in message
    assert "--classes FILE" in message
    message = here("score-detections", points_file(tmp_path / "numbers.csv", "a,6,1,1,1"), true).failure()
    assert "numbers.csv, line 2: the class '6' is none of" in message
    assert json.loads(here("score-detections", true, wrong, "--any-class").out)["score"] == 0
    same = json.loads(here("score-detections", wrong, wrong, "--any-class").out)
    assert same["score"] == 2 / (2 + 1e-6)
    with pytest.raises(InputError, match=r"The volume v: the class 'wasp' is none of sl"):
        bugnist_score([], [Point("v", "wasp", (0, 0, 0))])


def test_the_challenge_s_score_from_the_command_line(here: Command, tmp_path: Path) -> None:
    true, predicted = (points_file(tmp_path / f"{word}.csv", f"a,{word},1,1,1") for word in ("gp", "bp"))
    assert json.loads(here("score-detections", true, predicted).out)["score"] == pytest.approx(0.9999995, abs=1e-12)
    assert json.loads(here("score-detections", true, predicted, "--any-class").out)["score"] == 0
    table = tmp_path / "classes.csv"
    table.write_text("class\ngp\nbp\n")
    assert json.loads(here("score-detections", true, predicted, "--classes", table).out)["score"] == 0
    message = here("score-detections", true, predicted, "--classes", table, "--any-class").failure()
    assert "--classes and --any-class exclude each other" in message


def test_files_without_points_are_scored_in_valid_json(here: Command, tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise ValueError(word)

    empty, one = points_file(tmp_path / "empty.csv"), points_file(tmp_path / "one.csv", "a,bp,1,1,1")
    text = here("score-detections", empty, empty).out
    assert json.loads(text, parse_constant=refuse) == {"score": None, "volumes": {}, "reasons": {"score": NO_POINTS}}
    for true, predicted in ((empty, one), (one, empty)):
        found = json.loads(here("score-detections", true, predicted).out, parse_constant=refuse)
        assert (found["score"], found["volumes"]["a"]["f1"], found["reasons"]) == (0, 0, {})


TABLES = {
    "rows.csv": "class,alias,label\nBP,gp,6\nBP,blow fly pupa,\nAC,,2\n",
    "any-order.csv": "\ufefflabel,CLASS,alias\n6,BP,gp\n\n2,AC,\n,bp,blow fly pupa\n",
    "lists.json": '{"BP": ["gp", "blow fly pupa", 6], "AC": 2}',
    "dataset.json": '{"name": "bugs", "labels": {"background": 0, "BP": [6, "gp", "Blow fly pupa"], "AC": 2}}',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_classes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TABLES[name], "utf-8")
    table = read_classes(tmp_path / name)
    assert [category for category in table.classes if category != "background"] == ["BP", "AC"]
    assert table.labels == {6: "BP", 2: "AC"}
    for word in ("bp", "GP", "Blow Fly Pupa", "6"):
        assert table.find(word, "here") == "BP"
    with pytest.raises(InputError, match=r"here: the class 'sl' is none of .*AC"):
        table.find("sl", "here")


def test_the_labels_of_an_older_nnunet_data_set(tmp_path: Path) -> None:
    """Before version 2 the numbers were the keys."""
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "liver", "12": "spleen"}}')
    assert read_classes(tmp_path / "dataset.json").labels == {1: "liver", 12: "spleen"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", r"a\.csv, line 1: the header must name class"),
        ("a.csv", "gp,bp\n", r"a\.csv, line 1: the header must name class"),
        ("a.csv", "class,alias\n", r"a\.csv names no class"),
        ("a.csv", "class,alias\nbp,gp\npp,GP\n", r"a\.csv: 'GP' stands for the classes bp and pp"),
        ("a.csv", "class,alias\nbp,gp\ngp,\n", r"a\.csv: 'gp' stands for the classes bp and gp"),
        ("a.csv", "class,label\nbp,0\n", r"a\.csv, line 2: the label is '0'; labels are whole numbers of at least 1"),
        ("a.csv", "class,label\nbp,six\n", r"a\.csv, line 2: the label is 'six'"),
        ("a.csv", "class,label\nbp\n", r"a\.csv, line 2: 1 values, but the header names 2"),
        ("a.csv", "class,label\n,6\n", r"a\.csv, line 2: the class is empty"),
        ("a.csv", 'class\n"bp\n', r"a\.csv, line 2: this is not CSV"),
        ("a.json", '{"bp": 6', r"a\.json is not JSON"),
        ("a.json", '["bp"]', r"a\.json must hold an object such as"),
        ("a.json", '{"bp": 1, "gp": 1}', r"a\.json: '1' stands for the classes bp and gp"),
        ("a.json", '{"bp": -1}', r"a\.json: -1 stands for the class bp; give a word, or a label of at least 1"),
        ("a.json", '{"bp": [true]}', r"a\.json: True stands for the class bp"),
        ("a.json", "{}", r"a\.json names no class"),
    ],
)
def test_a_bad_table_of_classes_is_one_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_classes(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_table_of_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv cannot be read: No such file"):
        read_classes(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/data/mix_01.ome.zarr", "mix_01"), ("/data/mix.1.tif", "mix.1"), ("mix.nii.gz", "mix"), ("a/b.OME.TIF", "b"),
        ("https://host/a/mix_01.zarr/", "mix_01"), ("https://host/mix.tif?versionId=1/2", "mix"),
        ("s3://bucket/scan.n5", "scan"), ("/data/slices/", "slices"), ("/data/.zarr", ".zarr"), ("what?.npy", "what?"),
    ],
)  # fmt: skip
def test_volumes_are_named_by_their_files(location: str, name: str) -> None:
    assert base_name(location) == name


def test_detected_points_carry_the_classes_of_a_table(here: Command, tmp_path: Path) -> None:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:3, 1:3, 1:3], labels[6:9, 6:9, 6:9], labels[1:3, 8:10, 8:10] = 6, 2, 9
    np.save(tmp_path / "mix_01.npy", labels)
    table = tmp_path / "classes.csv"
    table.write_text("class,label\nbp,6\nac,2\n")
    options = ("--voxel-size-um", "1", "--workers", "1", "--quiet")
    here("detect", tmp_path / "mix_01.npy", "--run", tmp_path / "named", "--classes", table, *options)
    here("detect", tmp_path / "mix_01.npy", "--run", tmp_path / "plain", *options)
    named, plain = (read_points(tmp_path / name / "detections.csv") for name in ("named", "plain"))
    assert [(p.volume, p.category) for p in named] == [("mix_01", "ac"), ("mix_01", "bp"), ("mix_01", "9")]
    assert [(p.volume, p.category) for p in plain] == [("mix_01", "2"), ("mix_01", "6"), ("mix_01", "9")]
    assert [p.position for p in named] == [p.position for p in plain] == [(7, 7, 7), (1.5, 1.5, 1.5), (1.5, 8.5, 8.5)]
    true = points_file(tmp_path / "true.csv", "mix_01,GP,1,1,2", "mix_01,ac,7,7,6")
    message = here("score-detections", true, tmp_path / "named" / "detections.csv").failure()
    assert "detections.csv, line 4: the class '9' is none of sl" in message
    table.write_text("class,label,alias\nbp,6,gp\nac,2,\nwo,9,\n")
    found = json.loads(here("score-detections", true, tmp_path / "plain" / "detections.csv", "--classes", table).out)
    assert found["volumes"]["mix_01"]["true_positives"] == 2
    assert found["score"] == pytest.approx(2 * (2 / 3) / (5 / 3 + 1e-6), abs=1e-12)
    table.write_text("class\nbp\n")
    message = here("detect", tmp_path / "mix_01.npy", "--run", tmp_path / "no", "--classes", table, *options).failure()
    assert f"{table} has the label of no class" in message
    assert not (tmp_path / "no").exists()


def test_classes_of_a_run_that_detects_nothing_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 4, 5), np.uint8))
    path = str(tmp_path / "a.npy")
    for prediction, objects in ((path, "components"), (None, "none")):
        config = ComparisonConfig(
            workflow="compare" if prediction else "statistics", reference=path, prediction=prediction,
            objects=objects, voxel_size_um=(1, 1, 1), class_names={1: "bp"},
        )  # fmt: skip
        with pytest.raises(InputError, match="class_names are the classes of detections"):
            open_comparison(config, tmp_path / "run")
