import gc
import importlib.util
import json
import sys

import pytest

from loralab.imports import importing, without


def test_importing_collects_no_garbage_and_leaves_what_it_made_out_of_later_collections() -> None:
    made: list[list[object]] = []
    with importing():
        assert not gc.isenabled()
        made.append([])
    assert gc.isenabled()
    assert not any(each is made for each in gc.get_objects())  # frozen


def test_importing_enables_the_collector_only_if_it_was_enabled() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_packages_are_not_found_within_and_as_before_after() -> None:
    sys.modules.pop("colorsys", None)
    with without("colorsys", "json"):
        assert importlib.util.find_spec("colorsys") is None
        with pytest.raises(ImportError):
            import colorsys
        assert sys.modules["json"] is json  # it was imported
    import colorsys

    assert importlib.util.find_spec("colorsys") is colorsys.__spec__
