import pytest
from anomalib.data.datasets.depth import mvtec_3d
from anomalib.data.datasets.image import bmad, mpdd, mvtecad, visa

from mendiff.evaluation.papers import find_table, published, published_mean
from mendiff.evaluation.suites import MEDICAL, MVTEC_3D, SUITES
from mendiff.methods.base import METHODS, find_method

FOLDERS = {"mvtec": mvtecad, "visa": visa, "mpdd": mpdd, "mvtec3d": mvtec_3d}


def test_suites_are_those_of_the_papers():
    assert set(SUITES) == {
        "glad-mvtec",
        "glad-visa",
        "glad-mpdd",
        "glad-pcbbank",
        "diad-mvtec",
        "diad-visa",
        "diad-mvtec3d",
        "diad-medical",
        "ran-mvtec",
    }


@pytest.mark.parametrize(("name", "suite"), SUITES.items())
def test_suite_is_named_after_its_method_and_data_set(name, suite):
    assert suite.name == name == f"{suite.method}-{suite.dataset}"
    assert suite.method in METHODS


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_categories_are_those_of_the_tables(suite):
    assert len(set(suite.categories)) == len(suite.categories)
    for key in suite.tables:
        table = find_table(key)
        assert table.dataset == suite.dataset
        assert suite.method in table.methods
        # A table of means alone has no rows; folder names are then compared with anomalib's below.
        assert set(table.categories) in (set(), set(suite.categories))


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_published_figures_of_a_suite_are_found(suite):
    figures = published(suite.method, suite.dataset)
    assert published_mean(suite.method, suite.dataset)
    assert set(figures) == (set() if suite.categories in (MVTEC_3D, MEDICAL) else set(suite.categories))


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_only_diad_trains_one_model_for_all(suite):
    assert suite.multi_class == (suite.method == "diad")


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_published_settings_are_there_for_all_categories_of_a_suite_or_for_none(suite):
    presets = [one for one in find_method(suite.method).PRESETS if one.startswith(f"paper/{suite.dataset}/")]
    assert not presets or {one.rpartition("/")[2] for one in presets} == set(suite.categories)


@pytest.mark.parametrize(
    "suite", [one for one in SUITES.values() if one.dataset in FOLDERS], ids=lambda s: s.name
)
def test_categories_are_the_folders_that_anomalib_knows(suite):
    assert set(suite.categories) == set(FOLDERS[suite.dataset].CATEGORIES)


def test_medical_folders_are_some_of_bmads():
    assert set(MEDICAL) < set(bmad.CATEGORIES)
